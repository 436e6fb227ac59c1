Opening GPU coredump: gpu.953.core
[Current focus set to CUDA kernel 0, grid 4, block (0,0,0), thread (32,0,0), device 0, sm 124, warp 0, lane 0]
#0  0x00007f4b437a2eb0 in spin<<<(4,1,1),(128,1,1)>>> () at /home/user/kernels/faults.py:12
12	    while (tl.load(flag, volatile=True) == 0) & (i < most):
