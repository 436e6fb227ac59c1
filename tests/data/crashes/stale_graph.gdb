Opening GPU coredump: gpu.626.core
[Current focus set to CUDA kernel 0, grid 5, block (720,0,0), thread (32,0,0), device 0, sm 0, warp 21, lane 0]

CUDA Exception: Warp Illegal Address
The exception was triggered at PC 0x7fb51b7a1010  void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctorOnSelf_add<unsigned char>, std::array<char*, 2ul> >(int, at::native::CUDAFunctorOnSelf_add<unsigned char>, std::array<char*, 2ul>)
#0  0x00007fb51b7a1090 in void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctorOnSelf_add<unsigned char>, std::array<char*, 2ul> >(int, at::native::CUDAFunctorOnSelf_add<unsigned char>, std::array<char*, 2ul>)<<<(32768,1,1),(128,1,1)>>> ()
  Kernel Parent Dev Grid Status                             SMs Mask     GridDim  BlockDim Invocation                                                                                                                
*      0      -   0    5 Active 0x0fffffffffffffffffffffffffffffffff (32768,1,1) (128,1,1) at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctorOnSelf_add<unsigned char>, std::array<char*, 2ul> >() 
#0  0x00007fb51b7a1090 in void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctorOnSelf_add<unsigned char>, std::array<char*, 2ul> >(int, at::native::CUDAFunctorOnSelf_add<unsigned char>, std::array<char*, 2ul>)<<<(32768,1,1),(128,1,1)>>> ()
