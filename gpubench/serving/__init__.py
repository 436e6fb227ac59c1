"""Serving in a closed loop: requests, the scheduler, engines, and what their users see."""
