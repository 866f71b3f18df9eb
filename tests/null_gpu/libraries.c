// cuBLAS and cuDNN (its interface before version 8, which TORCH_CUDNN_V8_API_DISABLED=1 asks for) that compute nothing.
#include "null.h"
#include <stddef.h>
#include <string.h>
int null_library_status;
// Every product and convolution fails with this status from now on.
E void null_library_fail(int status) { null_library_status = status; }
#define PTR(name)                                                                                                      \
    E int name(void **p) {                                                                                             \
        *p = (void *)null_handle();                                                                                    \
        return 0;                                                                                                      \
    }
#define NOP(name)                                                                                                      \
    E int name() { return 0; }
#define RUN(name)                                                                                                      \
    E int name() {                                                                                                     \
        if (null_library_status) return null_library_status;                                                           \
        null_library_call(#name);                                                                                      \
        return 0;                                                                                                      \
    }
// ---- cuBLAS
PTR(cublasCreate_v2);
NOP(cublasDestroy_v2);
NOP(cublasSetStream_v2);
NOP(cublasSetWorkspace_v2);
NOP(cublasSetMathMode);
NOP(cublasSetPointerMode_v2);
NOP(cublasSetSmCountTarget);

E int cublasGetMathMode(void *h, int *m) {
    *m = 0;
    return 0;
}
E int cublasGetPointerMode_v2(void *h, int *m) {
    *m = 0;
    return 0;
}
E size_t cublasLtGetVersion(void) { return 130100; }
RUN(cublasSgemm_v2);
RUN(cublasDgemm_v2);
RUN(cublasGemmEx);
RUN(cublasSgemmEx);
RUN(cublasSgemmStridedBatched);
RUN(cublasDgemmStridedBatched);
RUN(cublasGemmStridedBatchedEx);
RUN(cublasSgemv_v2);
RUN(cublasDgemv_v2);
RUN(cublasSdot_v2);
RUN(cublasDdot_v2);
RUN(cublasDotEx);
RUN(cublasStrsm_v2);
RUN(cublasStrsmBatched);

RUN(cublasLtMatmul);

PTR(cublasLtMatmulDescCreate);
NOP(cublasLtMatmulDescDestroy);
NOP(cublasLtMatmulDescSetAttribute);
PTR(cublasLtMatmulPreferenceCreate);
NOP(cublasLtMatmulPreferenceDestroy);
NOP(cublasLtMatmulPreferenceSetAttribute);
PTR(cublasLtMatrixLayoutCreate);
NOP(cublasLtMatrixLayoutDestroy);
NOP(cublasLtMatrixLayoutSetAttribute);

E int cublasLtMatmulAlgoGetHeuristic(void *h, void *d, void *a, void *b, void *c, void *dd, void *p, int n, char *r,
                                     int *got) {
    memset(r, 0, 96);
    *got = 1;
    return 0;
}
// ---- cuDNN (TORCH_CUDNN_V8_API_DISABLED=1)
PTR(cudnnCreate);
NOP(cudnnDestroy);
NOP(cudnnSetStream);

E size_t cudnnGetVersion(void) { return 92400; }
E size_t cudnnGetCudartVersion(void) { return 13000; }
E const char *cudnnGetErrorString(int s) { return "cudnn error (null)"; }
E void cudnnGetLastErrorString(char *s, size_t n) { s[0] = 0; }
PTR(cudnnCreateTensorDescriptor);
NOP(cudnnDestroyTensorDescriptor);
PTR(cudnnCreateFilterDescriptor);
NOP(cudnnDestroyFilterDescriptor);
PTR(cudnnCreateConvolutionDescriptor);
NOP(cudnnDestroyConvolutionDescriptor);
PTR(cudnnCreateActivationDescriptor);
NOP(cudnnSetActivationDescriptor);
PTR(cudnnCreateDropoutDescriptor);
PTR(cudnnCreatePoolingDescriptor);

NOP(cudnnSetTensorNdDescriptor);
NOP(cudnnSetFilterNdDescriptor);
NOP(cudnnSetConvolutionNdDescriptor);
NOP(cudnnSetConvolutionMathType);
NOP(cudnnSetConvolutionGroupCount);

struct perf {
    int algo, status;
    float time;
    size_t memory;
    int det, math, res[3];
};
static int heur(int algo, int *got, struct perf *r) {
    memset(r, 0, sizeof *r);
    r->algo = algo;
    r->det = 1;
    r->math = 3;
    *got = 1;
    return 0;
}
E int cudnnGetConvolutionForwardAlgorithm_v7(void *h, void *a, void *b, void *c, void *d, int n, int *g,
                                             struct perf *r) {
    return heur(1, g, r);
}
E int cudnnGetConvolutionBackwardDataAlgorithm_v7(void *h, void *a, void *b, void *c, void *d, int n, int *g,
                                                  struct perf *r) {
    return heur(1, g, r);
}
E int cudnnGetConvolutionBackwardFilterAlgorithm_v7(void *h, void *a, void *b, void *c, void *d, int n, int *g,
                                                    struct perf *r) {
    return heur(1, g, r);
}
E int cudnnGetConvolutionForwardWorkspaceSize(void *h, void *a, void *b, void *c, void *d, int al, size_t *s) {
    *s = 0;
    return 0;
}
E int cudnnGetConvolutionBackwardDataWorkspaceSize(void *h, void *a, void *b, void *c, void *d, int al, size_t *s) {
    *s = 0;
    return 0;
}
E int cudnnGetConvolutionBackwardFilterWorkspaceSize(void *h, void *a, void *b, void *c, void *d, int al, size_t *s) {
    *s = 0;
    return 0;
}
RUN(cudnnConvolutionForward);
RUN(cudnnConvolutionBackwardData);
RUN(cudnnConvolutionBackwardFilter);
RUN(cudnnConvolutionBiasActivationForward);

RUN(cudnnBatchNormalizationBackwardEx);
RUN(cudnnBatchNormalizationForwardInference);
RUN(cudnnBatchNormalizationForwardTrainingEx);

E int cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize(void *h, int m, int o, void *a, void *b, void *c,
                                                               void *d, void *e, size_t *s) {
    *s = 0;
    return 0;
}
E int cudnnGetBatchNormalizationBackwardExWorkspaceSize(void *h, int m, int o, void *a, void *b, void *c, void *d,
                                                        void *e, void *f, void *g, size_t *s) {
    *s = 0;
    return 0;
}
E int cudnnGetBatchNormalizationTrainingExReserveSpaceSize(void *h, int m, int o, void *a, void *b, size_t *s) {
    *s = 0;
    return 0;
}
E int cudnnGetProperty(int t, int *v) {
    *v = t == 0 ? 9 : t == 1 ? 24 : 0;
    return 0;
}