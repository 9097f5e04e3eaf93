// SPDX-License-Identifier: MPL-2.0
//
// A library in the place of NVIDIA's libcublasLt.so: the functions that we use, as its documentation describes them, in
// plain loops. Matrices are in column-major order. A GEMM waits for its stream, which is the stand-in's of fake.c.
//
//   FAKE_LIBRARY=old        it is of a version before ours
//   FAKE_LIBRARY=declines   it knows no way to compute anything
//   FAKE_LIBRARY=refuses    it refuses what it has said it can do
//   FAKE_LIBRARY=fails      GEMMs fail

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint32_t u32;
typedef uint64_t u64;

enum { INVALID_VALUE = 7, NOT_SUPPORTED = 15, EXECUTION_FAILED = 13 };
enum { F32 = 0, F16 = 2, BF16 = 14, SUMS_F32 = 68 };
enum { TRANSPOSE_A = 3, EPILOGUE = 7, BIAS_POINTER = 8 };
enum { WITH_BIAS = 4, WITH_GELU_AND_BIAS = 36 };

int cuStreamSynchronize(void* stream);

struct Operation { int transposed; u32 epilogue; u64 bias; };
struct Layout { int type; u64 rows, columns; int64_t pitch; };
struct Preference { u64 workspace; };
struct Algorithm { u64 data[8]; };
struct Found { struct Algorithm algorithm; size_t workspace; int state; float waves; int reserved[4]; };

static int behaves(const char* how) {
    const char* text = getenv("FAKE_LIBRARY");
    return text && strcmp(text, how) == 0;
}

static int handle;

int cublasLtCreate(void** out) { *out = &handle; return 0; }
int cublasLtDestroy(void* given) { return given == &handle ? 0 : INVALID_VALUE; }
size_t cublasLtGetVersion(void) { return behaves("old") ? 111101 : 120903; }

int cublasLtMatmulDescCreate(struct Operation** out, int compute, int scale) {
    if (compute != SUMS_F32 || scale != F32) return NOT_SUPPORTED;
    *out = calloc(1, sizeof **out);
    return 0;
}
int cublasLtMatmulDescDestroy(struct Operation* operation) { free(operation); return 0; }
int cublasLtMatmulDescSetAttribute(struct Operation* operation, int attribute, const void* value, size_t bytes) {
    void* to = attribute == TRANSPOSE_A ? (void*)&operation->transposed
             : attribute == EPILOGUE    ? (void*)&operation->epilogue
             : attribute == BIAS_POINTER ? (void*)&operation->bias : NULL;
    if (!to || bytes != (attribute == BIAS_POINTER ? 8 : 4)) return INVALID_VALUE;
    memcpy(to, value, bytes);
    return 0;
}

int cublasLtMatrixLayoutCreate(struct Layout** out, int type, u64 rows, u64 columns, int64_t pitch) {
    if (pitch < (int64_t)rows) return INVALID_VALUE;
    *out = malloc(sizeof **out);
    **out = (struct Layout){type, rows, columns, pitch};
    return 0;
}
int cublasLtMatrixLayoutDestroy(struct Layout* layout) { free(layout); return 0; }

int cublasLtMatmulPreferenceCreate(struct Preference** out) { *out = calloc(1, sizeof **out); return 0; }
int cublasLtMatmulPreferenceDestroy(struct Preference* preference) { free(preference); return 0; }
int cublasLtMatmulPreferenceSetAttribute(struct Preference* preference, int attribute, const void* value, size_t bytes) {
    if (attribute != 1 || bytes != 8) return INVALID_VALUE;
    memcpy(&preference->workspace, value, 8);
    return 0;
}

// A (inputs x outputs, transposed), B (inputs x n), C and D (outputs x n).
static int fits(const struct Operation* o, const struct Layout* a, const struct Layout* b, const struct Layout* c,
                const struct Layout* d) {
    return o->transposed == 1 && (o->epilogue == WITH_BIAS || o->epilogue == WITH_GELU_AND_BIAS) && o->bias
        && a->rows == b->rows && d->rows == a->columns && d->columns == b->columns && c->rows == d->rows
        && c->columns == d->columns && (a->type == F16 || a->type == BF16) && b->type == a->type && c->type == a->type
        && d->type == a->type;
}

int cublasLtMatmulAlgoGetHeuristic(void* given, struct Operation* operation, struct Layout* a, struct Layout* b,
                                   struct Layout* c, struct Layout* d, struct Preference* preference, int wanted,
                                   struct Found* found, int* count) {
    if (given != &handle || wanted < 1 || !fits(operation, a, b, c, d)) return INVALID_VALUE;
    *count = 0;
    if (behaves("declines")) return NOT_SUPPORTED;
    *found = (struct Found){.algorithm = {{a->rows, a->columns, b->columns, operation->epilogue}},
                            .workspace = (size_t)preference->workspace};
    *count = 1;
    return 0;
}

static float from_half(uint16_t bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const float size = exponent == 31 ? (fraction ? NAN : INFINITY)
                     : exponent ? ldexpf((float)(1024 + fraction), exponent - 25) : ldexpf((float)fraction, -24);
    return bits >> 15 ? -size : size;
}

// To the nearest, halves to even, without infinities: no value of the tests is that large.
static uint16_t to_half(float value) {
    const uint16_t sign = signbit(value) ? 0x8000 : 0;
    int exponent;
    frexpf(value, &exponent);
    const int unit = (exponent < -13 ? -13 : exponent) - 11;
    const u32 steps = (u32)nearbyintf(ldexpf(fabsf(value), -unit));
    return sign | (uint16_t)(steps < 1024 ? steps : ((u32)(unit + 24) << 10) + steps);
}

static float load(const void* base, u64 index, int type) {
    const uint16_t bits = ((const uint16_t*)base)[index];
    if (type == F16) return from_half(bits);
    const u32 wide = (u32)bits << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
}

static void store(void* base, u64 index, int type, float value) {
    u32 wide;
    memcpy(&wide, &value, 4);
    ((uint16_t*)base)[index] = type == F16 ? to_half(value) : (uint16_t)((wide + 0x7fff + (wide >> 16 & 1)) >> 16);
}

int cublasLtMatmul(void* given, struct Operation* operation, const float* alpha, const void* a, struct Layout* as,
                   const void* b, struct Layout* bs, const float* beta, const void* c, struct Layout* cs, void* d,
                   struct Layout* ds, const struct Algorithm* algorithm, void* workspace, size_t bytes, void* stream) {
    if (given != &handle || !stream || !a || !b || !c || !d || !fits(operation, as, bs, cs, ds)) return INVALID_VALUE;
    const struct Algorithm wanted = {{as->rows, as->columns, bs->columns, operation->epilogue}};
    if (memcmp(&wanted, algorithm, sizeof wanted) || (bytes && !workspace) || behaves("refuses")) return INVALID_VALUE;
    if (behaves("fails") || cuStreamSynchronize(stream)) return EXECUTION_FAILED;
    memset(workspace, 0xff, bytes);
    const int type = as->type;
    for (u64 n = 0; n < ds->columns; ++n)
        for (u64 m = 0; m < ds->rows; ++m) {
            float sum = 0;
            for (u64 k = 0; k < as->rows; ++k)
                sum += load(a, m * (u64)as->pitch + k, type) * load(b, n * (u64)bs->pitch + k, type);
            float y = *alpha * sum;
            if (*beta != 0) y += *beta * load(c, n * (u64)cs->pitch + m, type);
            y += load((const void*)(uintptr_t)operation->bias, m, type);
            if (operation->epilogue == WITH_GELU_AND_BIAS)
                y = 0.5f * y * (1 + tanhf(sqrtf(2 / (float)M_PI) * (y + 0.044715f * y * y * y)));
            store(d, n * (u64)ds->pitch + m, type, y);
        }
    return 0;
}
