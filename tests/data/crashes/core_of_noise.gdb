Opening GPU coredump: gpu.1.core
Failed to read core file: elfOpenByName() failed: ELF header 'ident' verification failed
No CUDA kernels.
No stack.
