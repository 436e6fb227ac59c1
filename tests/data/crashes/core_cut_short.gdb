Opening GPU coredump: gpu.1.core
cuda-gdb/14/gdb/cuda/cuda-state.c:182: internal-error: initialize: Assertion `m_instance.m_num_devices > 0' failed.
A problem internal to GDB has been detected,
further debugging may prove unreliable.
----- Backtrace -----
0x545d9b _Z22gdb_internal_backtracev
0x9a0e44 _ZL17internal_vproblemP16internal_problemPKciS2_P13__va_list_tag
0x9a1068 _Z15internal_verrorPKciS0_P13__va_list_tag
0xb4a9e1 _Z18internal_error_locPKciS0_z
0x640e2b _ZN10cuda_state10initializeEv
