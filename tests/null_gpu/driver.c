// A driver (libcuda.so.1) that has a context, for who asks it directly.
#define E extern __attribute__((visibility("default")))
E int cuDevicePrimaryCtxGetState(int d, unsigned *f, int *a) {
    if (f) *f = 0;
    if (a) *a = 1;
    return 0;
}
E int cuCtxGetCurrent(void **c) {
    *c = (void *)16;
    return 0;
}
#define NOP(n)                                                                                                         \
    E int n() { return 0; }
NOP(cuCtxSetCurrent);
NOP(cuDeviceGet);
NOP(cuDeviceGetAttribute);
NOP(cuDevicePrimaryCtxRetain);
NOP(cuFuncGetAttribute);
NOP(cuFuncSetAttribute);
NOP(cuFuncSetCacheConfig);
NOP(cuGetErrorString);
NOP(cuLaunchCooperativeKernel);
NOP(cuLaunchKernel);
NOP(cuLinkAddData_v2);
NOP(cuLinkComplete);
NOP(cuLinkCreate_v2);
NOP(cuModuleGetFunction);
NOP(cuModuleLoad);
NOP(cuModuleLoadData);
NOP(cuModuleLoadDataEx);
NOP(cuModuleUnload);
NOP(cuOccupancyMaxActiveBlocksPerMultiprocessor);
NOP(cuPointerGetAttribute);
NOP(cuTensorMapEncodeTiled);

E int cuInit(unsigned f) { return 100; }
