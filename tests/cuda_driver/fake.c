// SPDX-License-Identifier: MPL-2.0
//
// A library in the place of NVIDIA's libcuda.so, for machines without a GPU: enough of the driver's interface to see
// that ours is right. Device memory is the host's. Nothing asynchronous happens before it is waited for, so that a
// buffer that is used again too early is seen. A kernel writes what it was launched with to the second pointer of its
// arguments.
//
//   FAKE_FAIL=name=code     the function of this name fails; from 700 on, all functions do from then on
//   FAKE_CAPABILITY=8.6     compute capability (default 9.0)
//   FAKE_DEVICES=n          number of devices (default 1); with 0, cuInit says so
//   FAKE_VERSION=n          version of the driver (default 12040)

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned int u32;
typedef uint64_t u64;

enum { INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_CONTEXT = 201, NOT_FOUND = 500 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int lost;
static __thread void* current;
static int context;

static int number(const char* name, int otherwise) {
    const char* text = getenv(name);
    return text ? atoi(text) : otherwise;
}

static int fails(const char* name) {
    if (lost) return lost;
    const char* text = getenv("FAKE_FAIL");
    const size_t len = strlen(name);
    if (!text || strncmp(text, name, len) != 0 || text[len] != '=') return 0;
    const int code = atoi(text + len + 1);
    if (code >= 700) lost = code;
    return code;
}

#define TRY                                           \
    do {                                              \
        const int code = fails(__func__);             \
        if (code) return code;                        \
    } while (0)
#define TRY_BOUND                                     \
    do {                                              \
        TRY;                                          \
        if (current != &context) return INVALID_CONTEXT; \
    } while (0)

// A point in the work of a stream.
struct Event {
    struct Stream* stream;
    u64 number;
};

// What is under way: a copy, a value to write once, or, with `after`, a point in another stream's work to be reached.
struct Work {
    void* to;
    const void* from;
    size_t bytes;
    void* owned;
    struct Event after;
    struct Work* next;
};

// Streams are never freed: events may outlive them.
struct Stream {
    struct Work *first, **last;
    u64 added, done;
    struct Stream* next;
};
static struct Stream* streams;

static void add(struct Stream* stream, struct Work work) {
    struct Work* own = malloc(sizeof *own);
    *own = work;
    pthread_mutex_lock(&lock);
    *stream->last = own;
    stream->last = &own->next;
    stream->added++;
    pthread_mutex_unlock(&lock);
}

// With the lock held.
static void run(struct Event until) {
    struct Stream* stream = until.stream;
    while (stream && stream->done < until.number) {
        struct Work* work = stream->first;
        run(work->after);
        if (work->bytes) memcpy(work->to, work->from, work->bytes);
        stream->first = work->next;
        if (!stream->first) stream->last = &stream->first;
        stream->done++;
        free(work->owned);
        free(work);
    }
}

static void finish(struct Event until) {
    pthread_mutex_lock(&lock);
    run(until);
    pthread_mutex_unlock(&lock);
}

static void finish_stream(struct Stream* stream) { finish((struct Event){stream, stream->added}); }
static void finish_all(void) {
    for (struct Stream* stream = streams; stream; stream = stream->next) finish_stream(stream);
}

int cuGetErrorName(int code, const char** name) {
    *name = code == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR_OTHER";
    return 0;
}
int cuGetErrorString(int code, const char** text) {
    *text = code == 700 ? "an illegal memory access was encountered" : "some text";
    return 0;
}

int cuDriverGetVersion(int* version) { TRY; *version = number("FAKE_VERSION", 12040); return 0; }
int cuInit(u32 flags) { TRY; return flags ? INVALID_VALUE : number("FAKE_DEVICES", 1) ? 0 : NO_DEVICE; }
int cuDeviceGetCount(int* count) { TRY; *count = number("FAKE_DEVICES", 1); return 0; }
int cuDeviceGet(int* device, int ordinal) { TRY; *device = ordinal; return 0; }
int cuDeviceGetName(char* name, int len, int device) { TRY; snprintf(name, (size_t)len, "Fake %d", device); return 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
    TRY;
    (void)device;
    const char* capability = getenv("FAKE_CAPABILITY");
    if (!capability) capability = "9.0";
    *value = attribute == 75 ? atoi(capability) : attribute == 76 ? atoi(strchr(capability, '.') + 1) : 101376;
    return 0;
}
int cuDevicePrimaryCtxRetain(void** out, int device) { TRY; (void)device; *out = &context; return 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { TRY; (void)device; return 0; }
int cuCtxSetCurrent(void* wanted) { TRY; current = wanted; return 0; }

int cuMemAlloc_v2(u64* address, size_t bytes) {
    TRY_BOUND;
    if (!bytes) return INVALID_VALUE;
    *address = (u64)(uintptr_t)aligned_alloc(256, (bytes + 255) / 256 * 256);
    return *address ? 0 : OUT_OF_MEMORY;
}
int cuMemFree_v2(u64 address) { TRY_BOUND; finish_all(); free((void*)(uintptr_t)address); return 0; }
int cuMemGetInfo_v2(size_t* available, size_t* total) { TRY_BOUND; *available = 1000; *total = 4000; return 0; }
int cuMemHostAlloc(void** out, size_t bytes, u32 flags) {
    TRY_BOUND;
    if (flags) return INVALID_VALUE;
    *out = malloc(bytes);
    return *out ? 0 : OUT_OF_MEMORY;
}
int cuMemFreeHost(void* memory) { TRY_BOUND; finish_all(); free(memory); return 0; }

int cuStreamCreate(struct Stream** out, u32 flags) {
    TRY_BOUND;
    struct Stream* stream = *out = calloc(1, sizeof *stream);
    pthread_mutex_lock(&lock);
    *stream = (struct Stream){.last = &stream->first, .next = streams};
    streams = stream;
    pthread_mutex_unlock(&lock);
    return flags == 1 ? 0 : INVALID_VALUE;
}
int cuStreamDestroy_v2(struct Stream* stream) { TRY_BOUND; finish_stream(stream); return 0; }
int cuStreamSynchronize(struct Stream* stream) { TRY_BOUND; finish_stream(stream); return 0; }
int cuStreamWaitEvent(struct Stream* stream, struct Event* event, u32 flags) {
    TRY_BOUND;
    if (!stream || !event || flags) return INVALID_VALUE;
    add(stream, (struct Work){.after = *event});
    return 0;
}
int cuEventCreate(struct Event** event, u32 flags) {
    TRY_BOUND;
    *event = calloc(1, sizeof **event);
    return flags == 3 ? 0 : INVALID_VALUE;
}
int cuEventRecord(struct Event* event, struct Stream* stream) {
    TRY_BOUND;
    if (!event || !stream) return INVALID_VALUE;
    *event = (struct Event){stream, stream->added};
    return 0;
}
int cuEventSynchronize(struct Event* event) { TRY_BOUND; finish(*event); return 0; }
int cuEventDestroy_v2(struct Event* event) { TRY_BOUND; free(event); return 0; }

int cuMemcpyHtoDAsync_v2(u64 to, const void* from, size_t bytes, struct Stream* stream) {
    TRY_BOUND;
    if (!bytes || !stream) return INVALID_VALUE;
    add(stream, (struct Work){.to = (void*)(uintptr_t)to, .from = from, .bytes = bytes});
    return 0;
}
int cuMemcpyDtoHAsync_v2(void* to, u64 from, size_t bytes, struct Stream* stream) {
    TRY_BOUND;
    if (!bytes || !stream) return INVALID_VALUE;
    add(stream, (struct Work){.to = to, .from = (const void*)(uintptr_t)from, .bytes = bytes});
    return 0;
}
int cuMemsetD8Async(u64 to, unsigned char value, size_t bytes, struct Stream* stream) {
    TRY_BOUND;
    if (!bytes || !stream) return INVALID_VALUE;
    void* values = memset(malloc(bytes), value, bytes);
    add(stream, (struct Work){.to = (void*)(uintptr_t)to, .from = values, .bytes = bytes, .owned = values});
    return 0;
}

int cuModuleLoadDataEx(void** module, const char* image, u32 count, const int* options, void** values) {
    if (count != 2 || options[0] != 5 || options[1] != 6) return INVALID_VALUE;
    const int code = fails(__func__);
    if (code) {
        snprintf(values[0], (size_t)(uintptr_t)values[1], "what the compiler says\n");
        return code;
    }
    if (current != &context) return INVALID_CONTEXT;
    if (memcmp(image, "\177ELF", 4) != 0 && !strstr(image, ".target sm_80")) return INVALID_VALUE;
    *module = malloc(1);
    return 0;
}
int cuModuleUnload(void* module) { TRY_BOUND; free(module); return 0; }
int cuModuleGetFunction(void** function, void* module, const char* name) {
    TRY_BOUND;
    static u32 dynamic_shared;
    *function = &dynamic_shared;
    return module && strcmp(name, "missing") != 0 ? 0 : NOT_FOUND;
}
int cuFuncGetAttribute(int* value, int attribute, void* function) {
    TRY_BOUND;
    (void)function;
    *value = attribute == 0 ? 256 : 0;
    return 0;
}
int cuFuncSetAttribute(void* function, int attribute, int value) {
    TRY_BOUND;
    if (attribute != 8) return INVALID_VALUE;
    *(u32*)function = (u32)value;
    return 0;
}
int cuLaunchKernel(void* function, u32 x, u32 y, u32 z, u32 threads, u32 threads_y, u32 threads_z, u32 shared,
                   struct Stream* stream, void** parameters, void** extra) {
    TRY_BOUND;
    if (extra || !stream || threads_y != 1 || threads_z != 1) return INVALID_VALUE;
    if (shared > 49152 && shared > *(u32*)function) return INVALID_VALUE;
    const u64* args = parameters[0];
    const size_t bytes = 6 * sizeof(u64);
    u64* seen = memcpy(malloc(bytes), (u64[]){x, y, z, threads, shared, args[0]}, bytes);
    add(stream, (struct Work){.to = (void*)(uintptr_t)args[1], .from = seen, .bytes = bytes, .owned = seen});
    return 0;
}
