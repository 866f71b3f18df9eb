// The CUDA runtime of a GPU that computes nothing, to be preloaded (LD_PRELOAD): PyTorch's own host code for CUDA then
// runs on a machine without a GPU. Kernels are counted by name, so are copies, synchronisations and allocations. A copy
// to the host gives zeros; one of fewer bytes than a float has, which are booleans, what `null_fill` says. A CUDA graph
// is captured as the number of its launches; what a real capture refuses, it refuses. libraries.c is cuBLAS and cuDNN,
// driver.c the driver.
#define _GNU_SOURCE
#include "null.h"
#include <cuda_runtime_api.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
static int poison;
#define OK ((cudaError_t)poison)
// ---- counters
long null_launches_, null_lib_, null_syncs_, null_h2d_, null_d2h_, null_d2d_, null_memset_, null_mallocs_,
    null_h2d_bytes_, null_d2h_bytes_, null_graphs_;
// Of the capture under way: its number, 0 for none, and the launches in it.
static long capture, captured;
static long captures;
static cudaStream_t capturing;
static __thread enum cudaStreamCaptureMode mode;
// What a capture refuses makes it invalid; one thing is refused less where the thread is relaxed: to wait for another stream.
static int invalid;
static cudaError_t refused(cudaError_t error) {
    invalid = 1;
    return error;
}
static int fill_one = 1;
#define NH 65536
static struct {
    const void *f;
    const char *n;
    long c;
} tab[NH];
static int slot(const void *f) {
    unsigned long h = ((unsigned long)f >> 4) * 0x9E3779B97F4A7C15UL >> 48;
    while (tab[h & (NH - 1)].f && tab[h & (NH - 1)].f != f) h++;
    return h & (NH - 1);
}
// Whether a launch counts now; one that is captured counts when its graph is launched.
static int hit(const void *f) {
    int s = slot(f);
    tab[s].f = f;
    if (capture) {
        captured++;
        return 0;
    }
    tab[s].c++;
    null_launches_++;
    return 1;
}
void null_library_call(const char *n) {
    tab[slot(n)].n = n;
    null_lib_ += hit(n);
}
E void null_reset(void) {
    for (int i = 0; i < NH; i++) tab[i].c = 0;
    null_launches_ = null_lib_ = null_syncs_ = null_h2d_ = null_d2h_ = null_d2d_ = null_memset_ = null_mallocs_ =
        null_h2d_bytes_ = null_d2h_bytes_ = null_graphs_ = 0;
}
E void null_get(long *o) {
    long v[] = {null_launches_, null_lib_,     null_syncs_,     null_h2d_,       null_d2h_,   null_d2d_,
                null_memset_,   null_mallocs_, null_h2d_bytes_, null_d2h_bytes_, null_graphs_};
    memcpy(o, v, sizeof v);
}
E void null_fill(int v) { fill_one = v; }
E long null_names(char *buf, long size) {
    long n = 0;
    for (int i = 0; i < NH; i++)
        if (tab[i].c) {
            int k = snprintf(buf + n, size - n, "%ld %s\n", tab[i].c, tab[i].n ? tab[i].n : "?");
            if (k < 0 || n + k >= size) break;
            n += k;
        }
    return n;
}
// ---- memory
#define MA 65536
static struct {
    char *p;
    size_t n;
} allocs[MA];
static int na;
static int on_device(const void *p) {
    for (int i = na - 1; i >= 0; i--)
        if ((char *)p >= allocs[i].p && (char *)p < allocs[i].p + allocs[i].n) return 1;
    return 0;
}
static size_t used;
static size_t total = 85000000000UL;
E void null_memory(size_t bytes) { total = bytes; }
E cudaError_t cudaMalloc(void **p, size_t n) {
    null_mallocs_++;
    if (used + n > total) {
        *p = 0;
        return cudaErrorMemoryAllocation;
    }
    *p = mmap(0, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (*p == MAP_FAILED) return cudaErrorMemoryAllocation;
    allocs[na].p = *p;
    allocs[na++].n = n;
    used += n;
    return OK;
}
E cudaError_t cudaFree(void *p) {
    if (!p) return OK;
    if (poison) return OK;
    for (int i = 0; i < na; i++)
        if (allocs[i].p == p) {
            munmap(p, allocs[i].n);
            used -= allocs[i].n;
            allocs[i] = allocs[--na];
            return OK;
        }
    return OK;
}
E cudaError_t cudaMallocAsync(void **p, size_t n, cudaStream_t s) { return cudaMalloc(p, n); }
E cudaError_t cudaFreeAsync(void *p, cudaStream_t s) { return cudaFree(p); }
E cudaError_t cudaHostAlloc(void **p, size_t n, unsigned f) {
    *p = calloc(1, n ? n : 1);
    return OK;
}
E cudaError_t cudaFreeHost(void *p) {
    free(p);
    return OK;
}
E cudaError_t cudaMemGetInfo(size_t *f, size_t *t) {
    *f = total - used;
    *t = total;
    return OK;
}
static void copy(void *d, const void *s, size_t n, enum cudaMemcpyKind k) {
    int dd = on_device(d), ss = on_device(s);
    if (dd && ss) null_d2d_++;
    else if (dd) {
        null_h2d_++;
        null_h2d_bytes_ += n;
        memcpy(d, s, n);
    } else if (ss) {
        null_d2h_++;
        null_d2h_bytes_ += n;
        memset(d, n < sizeof(float) ? fill_one : 0, n);
    } else memcpy(d, s, n);
}
E cudaError_t cudaMemcpy(void *d, const void *s, size_t n, enum cudaMemcpyKind k) {
    if (capture) return refused(cudaErrorStreamCaptureImplicit);
    copy(d, s, n, k);
    null_syncs_++;
    return OK;
}
E cudaError_t cudaMemcpyAsync(void *d, const void *s, size_t n, enum cudaMemcpyKind k, cudaStream_t st) {
    copy(d, s, n, k);
    return OK;
}
E cudaError_t cudaMemset(void *d, int v, size_t n) {
    null_memset_++;
    return OK;
}
E cudaError_t cudaMemsetAsync(void *d, int v, size_t n, cudaStream_t s) {
    null_memset_++;
    return OK;
}
E cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *p) {
    memset(a, 0, sizeof *a);
    a->type = on_device(p) ? cudaMemoryTypeDevice : cudaMemoryTypeUnregistered;
    a->devicePointer = (void *)p;
    return OK;
}
// ---- device
E cudaError_t cudaGetDeviceCount(int *n) {
    *n = 1;
    return cudaSuccess;
}
E cudaError_t cudaGetDevice(int *d) {
    *d = 0;
    return cudaSuccess;
}
E cudaError_t cudaSetDevice(int d) { return cudaSuccess; }
E cudaError_t cudaDriverGetVersion(int *v) {
    *v = 13000;
    return OK;
}
E cudaError_t cudaRuntimeGetVersion(int *v) {
    *v = 13000;
    return OK;
}
E cudaError_t cudaGetLastError(void) { return OK; }
E cudaError_t cudaPeekAtLastError(void) { return OK; }
E cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int d) {
    memset(p, 0, sizeof *p);
    strcpy(p->name, "NVIDIA H100 80GB HBM3 (null)");
    p->totalGlobalMem = total;
    p->sharedMemPerBlock = 49152;
    p->regsPerBlock = 65536;
    p->warpSize = 32;
    p->maxThreadsPerBlock = 1024;
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 2147483647;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->totalConstMem = 65536;
    p->major = 9;
    p->minor = 0;
    p->textureAlignment = 512;
    p->multiProcessorCount = 132;
    p->l2CacheSize = 50 << 20;
    p->maxThreadsPerMultiProcessor = 2048;
    p->sharedMemPerMultiprocessor = 233472;
    p->regsPerMultiprocessor = 65536;
    p->sharedMemPerBlockOptin = 232448;
    p->maxBlocksPerMultiProcessor = 32;
    p->unifiedAddressing = 1;
    p->concurrentKernels = 1;
    return OK;
}
E cudaError_t cudaDeviceGetAttribute(int *v, enum cudaDeviceAttr a, int d) {
    switch ((int)a) {

    case 1: *v = 1024; break;
    case 2:
    case 3: *v = 1024; break;
    case 4: *v = 64; break;
    case 5: *v = 2147483647; break;
    case 6:
    case 7: *v = 65535; break;
    case 8: *v = 49152; break;
    case 10: *v = 32; break;
    case 12: *v = 65536; break;
    case 16: *v = 132; break;
    case 38: *v = 50 << 20; break;
    case 39: *v = 2048; break;
    case 41: *v = 1; break;
    case 75: *v = 9; break;
    case 76: *v = 0; break;
    case 81: *v = 233472; break;
    case 82: *v = 65536; break;
    case 97: *v = 232448; break;
    case 106: *v = 32; break;
    default: *v = 0;
    }
    return OK;
}
E cudaError_t cudaDeviceGetStreamPriorityRange(int *a, int *b) {
    if (a) *a = 0;
    if (b) *b = -5;
    return OK;
}
E cudaError_t cudaDeviceGetPCIBusId(char *s, int n, int d) {
    snprintf(s, n, "0000:00:00.0");
    return OK;
}
E cudaError_t cudaDeviceCanAccessPeer(int *v, int a, int b) {
    *v = 0;
    return OK;
}
E cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *f) {
    memset(a, 0, sizeof *a);
    a->maxThreadsPerBlock = 1024;
    a->ptxVersion = 90;
    a->binaryVersion = 90;
    a->numRegs = 32;
    a->maxDynamicSharedSizeBytes = 49152;
    return OK;
}
E cudaError_t cudaFuncSetAttribute(const void *f, enum cudaFuncAttribute a, int v) { return OK; }
E cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, const void *f, int b, size_t s,
                                                                     unsigned fl) {
    *n = 2;
    return OK;
}
E cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *n, const void *f, int b, size_t s) {
    *n = 2;
    return OK;
}
E const char *cudaGetErrorName(cudaError_t e) {
    return e == 700 ? "cudaErrorIllegalAddress" : e ? "cudaError(null)" : "cudaSuccess";
}
E const char *cudaGetErrorString(cudaError_t e) {
    return e == cudaErrorMemoryAllocation ? "out of memory"
           : e == 700                     ? "an illegal memory access was encountered"
           : e                            ? "error (null)"
                                          : "no error";
}
static long nothing(void) { return 0; }
E cudaError_t cudaGetDriverEntryPointByVersion(const char *s, void **f, unsigned v, unsigned long long fl,
                                               enum cudaDriverEntryPointQueryResult *r) {
    *f = (void *)nothing;
    if (r) *r = 0;
    return OK;
}
E cudaError_t cudaGetSymbolAddress(void **p, const void *s) {
    *p = (void *)s;
    return OK;
}
// ---- streams, events
static long handle = 16;
long null_handle(void) { return handle += 16; }
E cudaError_t cudaStreamCreate(cudaStream_t *s) {
    *s = (cudaStream_t)(handle += 16);
    return OK;
}
E cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned f) { return cudaStreamCreate(s); }
E cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned f, int p) { return cudaStreamCreate(s); }
E cudaError_t cudaStreamDestroy(cudaStream_t s) { return OK; }
E cudaError_t cudaStreamGetPriority(cudaStream_t s, int *p) {
    *p = 0;
    return OK;
}
E cudaError_t cudaStreamQuery(cudaStream_t s) { return OK; }
E cudaError_t cudaStreamSynchronize(cudaStream_t s) {
    if (capture && (s == capturing || mode != cudaStreamCaptureModeRelaxed))
        return refused(cudaErrorStreamCaptureUnsupported);
    null_syncs_++;
    return OK;
}
E cudaError_t cudaDeviceSynchronize(void) {
    if (capture) return refused(cudaErrorStreamCaptureUnsupported);
    null_syncs_++;
    return OK;
}
E cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned f) { return OK; }
static enum cudaStreamCaptureStatus capture_status(void) {
    return capture ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
}
E cudaError_t cudaStreamIsCapturing(cudaStream_t s, enum cudaStreamCaptureStatus *c) {
    *c = capture_status();
    return OK;
}
E cudaError_t cudaStreamGetCaptureInfo(cudaStream_t s, enum cudaStreamCaptureStatus *c, unsigned long long *id,
                                       cudaGraph_t *g, const cudaGraphNode_t **d, const cudaGraphEdgeData **e,
                                       size_t *n) {
    *c = capture_status();
    if (id) *id = capture;
    if (g) *g = 0;
    if (d) *d = 0;
    if (e) *e = 0;
    if (n) *n = 0;
    return OK;
}
E cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *m) {
    enum cudaStreamCaptureMode before = mode;
    mode = *m;
    *m = before;
    return OK;
}
E cudaError_t cudaEventCreate(cudaEvent_t *e) {
    *e = (cudaEvent_t)(handle += 16);
    return OK;
}
E cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned f) { return cudaEventCreate(e); }
E cudaError_t cudaEventDestroy(cudaEvent_t e) { return OK; }
E cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) { return OK; }
E cudaError_t cudaEventRecordWithFlags(cudaEvent_t e, cudaStream_t s, unsigned f) { return OK; }
E cudaError_t cudaEventQuery(cudaEvent_t e) { return OK; }
E cudaError_t cudaEventSynchronize(cudaEvent_t e) {
    if (capture) return refused(cudaErrorStreamCaptureUnsupported);
    null_syncs_++;
    return OK;
}
E cudaError_t cudaEventElapsedTime(float *t, cudaEvent_t a, cudaEvent_t b) {
    *t = 0;
    return OK;
}
// ---- launches
E void **__cudaRegisterFatBinary(void *f) {
    static void *h[1];
    return h;
}
E void __cudaRegisterFatBinaryEnd(void **h) {}
E void __cudaUnregisterFatBinary(void **h) {}
E char __cudaInitModule(void **h) { return 1; }
E void __cudaRegisterFunction(void **h, const char *f, char *d, const char *n, int t, void *a, void *b, void *c,
                              void *e, int *w) {
    int s = slot(f);
    tab[s].f = f;
    tab[s].n = n;
}
E void __cudaRegisterVar(void **h, char *v, char *a, const char *n, int e, size_t s, int c, int g) {}
static __thread struct {
    dim3 g, b;
    size_t s;
    void *st;
} cfg[16];
static __thread int depth;
E unsigned __cudaPushCallConfiguration(dim3 g, dim3 b, size_t s, void *st) {
    cfg[depth].g = g;
    cfg[depth].b = b;
    cfg[depth].s = s;
    cfg[depth++].st = st;
    return 0;
}
E cudaError_t __cudaPopCallConfiguration(dim3 *g, dim3 *b, size_t *s, void *st) {
    depth--;
    *g = cfg[depth].g;
    *b = cfg[depth].b;
    *s = cfg[depth].s;
    *(void **)st = cfg[depth].st;
    return OK;
}
E cudaError_t __cudaGetKernel(cudaKernel_t *k, const void *f) {
    *k = (cudaKernel_t)f;
    return OK;
}
E cudaError_t __cudaLaunchKernel(cudaKernel_t k, dim3 g, dim3 b, void **a, size_t s, cudaStream_t st) {
    hit((void *)k);
    return OK;
}
E cudaError_t cudaLaunchKernel(const void *f, dim3 g, dim3 b, void **a, size_t s, cudaStream_t st) {
    hit(f);
    return OK;
}
E cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *c, const void *f, void **a) {
    hit(f);
    return OK;
}
E cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t f, void *u) { return OK; }
E cudaError_t cudaProfilerStart(void) { return OK; }
E cudaError_t cudaProfilerStop(void) { return OK; }
E cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *p, int d) {
    *p = (cudaMemPool_t)16;
    return OK;
}
E cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t p, enum cudaMemPoolAttr a, void *v) { return OK; }
E cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t p, enum cudaMemPoolAttr a, void *v) { return OK; }
E cudaError_t cudaHostRegister(void *p, size_t n, unsigned f) { return OK; }
E cudaError_t cudaHostUnregister(void *p) { return OK; }
E cudaError_t cudaKernelSetAttributeForDevice(cudaKernel_t k, enum cudaFuncAttribute a, int v, int d) { return OK; }
E cudaError_t cudaMemcpyToSymbol(const void *s, const void *p, size_t n, size_t o, enum cudaMemcpyKind k) { return OK; }

// ---- graphs: a handle is the number of launches
E cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode m) {
    capture = ++captures;
    captured = invalid = 0;
    capturing = s;
    return OK;
}
E cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g) {
    *g = invalid ? 0 : (cudaGraph_t)(captured + 1);
    capture = 0;
    return invalid ? cudaErrorStreamCaptureInvalidated : OK;
}
E cudaError_t cudaGraphGetNodes(cudaGraph_t g, cudaGraphNode_t *nodes, size_t *n) {
    *n = (size_t)g - 1;
    return OK;
}
E cudaError_t cudaGraphInstantiate(cudaGraphExec_t *x, cudaGraph_t g, unsigned long long f) {
    *x = (cudaGraphExec_t)g;
    return OK;
}
E cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *x, cudaGraph_t g, unsigned long long f) {
    *x = (cudaGraphExec_t)g;
    return OK;
}
E cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t s) {
    null_graphs_++;
    null_launches_++;
    return OK;
}
E cudaError_t cudaGraphDestroy(cudaGraph_t g) { return OK; }
E cudaError_t cudaGraphExecDestroy(cudaGraphExec_t x) { return OK; }
E cudaError_t cudaGraphUpload(cudaGraphExec_t x, cudaStream_t s) { return OK; }
E cudaError_t cudaUserObjectCreate(cudaUserObject_t *o, void *p, cudaHostFn_t f, unsigned c, unsigned g) {
    *o = (cudaUserObject_t)16;
    return OK;
}
E cudaError_t cudaUserObjectRelease(cudaUserObject_t o, unsigned c) { return OK; }
E cudaError_t cudaGraphRetainUserObject(cudaGraph_t g, cudaUserObject_t o, unsigned c, unsigned f) { return OK; }
E cudaError_t cudaStreamUpdateCaptureDependencies(cudaStream_t s, cudaGraphNode_t *d, const cudaGraphEdgeData *e,
                                                  size_t n, unsigned f) {
    return OK;
}
// ---- faults: every call fails with this error from now on
E void null_poison(int error) { poison = error; }
