// SPDX-License-Identifier: MPL-2.0
//
// A library in the place of NVIDIA's libcuda.so, for machines without a GPU: enough of the driver's interface to see
// that ours is right. Device memory is the host's. Nothing asynchronous happens before it is waited for, so that a
// buffer that is used again too early is seen. A kernel writes what it was launched with to the second pointer of its
// arguments; if that is not in memory which was allocated and not freed, the device is lost.
//
//   FAKE_FAIL=name=code     the function of this name fails; with 700 to 799, all functions do from then on
//   FAKE_CAPABILITY=8.6     compute capability (default 9.0)
//   FAKE_DEVICES=n          number of devices (default 1); with 0, cuInit says so
//   FAKE_VERSION=n          version of the driver (default 12040)

// fake_calls tells how often a function was called, fake_live how much of what was made has not been destroyed.

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned int u32;
typedef uint64_t u64;

enum {
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NO_DEVICE = 100,
    INVALID_CONTEXT = 201,
    NOT_FOUND = 500,
    ILLEGAL_ADDRESS = 700
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int lost;
static __thread void* current;
static int context;

static int number(const char* name, int otherwise) {
    const char* text = getenv(name);
    return text ? atoi(text) : otherwise;
}

// How often each function was called.
struct Calls {
    const char* name;
    int count;
    struct Calls* next;
};
static struct Calls* calls;

static int* calls_of(const char* name) {
    for (struct Calls* of = calls; of; of = of->next)
        if (!strcmp(of->name, name)) return &of->count;
    struct Calls* of = malloc(sizeof *of);
    *of = (struct Calls){.name = strdup(name), .next = calls};
    calls = of;
    return &of->count;
}

int fake_calls(const char* name) {
    pthread_mutex_lock(&lock);
    const int count = *calls_of(name);
    pthread_mutex_unlock(&lock);
    return count;
}

// Memory, streams, events, modules and graphs that there are.
static int live;
int fake_live(void) { return live; }
static void made(void) { __atomic_add_fetch(&live, 1, __ATOMIC_SEQ_CST); }
static void destroyed(void) { __atomic_sub_fetch(&live, 1, __ATOMIC_SEQ_CST); }

static int fails(const char* name) {
    pthread_mutex_lock(&lock);
    ++*calls_of(name);
    pthread_mutex_unlock(&lock);
    if (lost) return lost;
    const char* text = getenv("FAKE_FAIL");
    const size_t len = strlen(name);
    if (!text || strncmp(text, name, len) != 0 || text[len] != '=') return 0;
    const int code = atoi(text + len + 1);
    if (code >= 700 && code < 800) lost = code;
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
    int by_kernel;
    struct Event after;
    struct Work* next;
};

// Device memory.
struct Memory {
    char* base;
    size_t bytes;
    struct Memory* next;
};
static struct Memory* memories;

// With the lock held.
static int is_memory(const void* at, size_t bytes) {
    for (struct Memory* memory = memories; memory; memory = memory->next)
        if ((char*)at >= memory->base && (char*)at + bytes <= memory->base + memory->bytes) return 1;
    return 0;
}

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
        if (work->by_kernel && !is_memory(work->to, work->bytes))
            lost = ILLEGAL_ADDRESS;
        else if (work->bytes)
            memcpy(work->to, work->from, work->bytes);
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
    struct Memory* memory = malloc(sizeof *memory);
    pthread_mutex_lock(&lock);
    *memory = (struct Memory){aligned_alloc(256, (bytes + 255) / 256 * 256), bytes, memories};
    memories = memory;
    pthread_mutex_unlock(&lock);
    *address = (u64)(uintptr_t)memory->base;
    made();
    return *address ? 0 : OUT_OF_MEMORY;
}
int cuMemFree_v2(u64 address) {
    TRY_BOUND;
    finish_all();
    pthread_mutex_lock(&lock);
    struct Memory** memory = &memories;
    while (*memory && (*memory)->base != (char*)(uintptr_t)address) memory = &(*memory)->next;
    struct Memory* found = *memory;
    if (found) *memory = found->next;
    pthread_mutex_unlock(&lock);
    if (!found) return INVALID_VALUE;
    free(found->base);
    free(found);
    destroyed();
    return 0;
}
int cuMemGetInfo_v2(size_t* available, size_t* total) { TRY_BOUND; *available = 1000; *total = 4000; return 0; }
int cuMemHostAlloc(void** out, size_t bytes, u32 flags) {
    TRY_BOUND;
    if (flags) return INVALID_VALUE;
    *out = malloc(bytes);
    made();
    return *out ? 0 : OUT_OF_MEMORY;
}
int cuMemFreeHost(void* memory) { TRY_BOUND; finish_all(); free(memory); destroyed(); return 0; }

int cuStreamCreate(struct Stream** out, u32 flags) {
    TRY_BOUND;
    struct Stream* stream = *out = calloc(1, sizeof *stream);
    pthread_mutex_lock(&lock);
    *stream = (struct Stream){.last = &stream->first, .next = streams};
    streams = stream;
    pthread_mutex_unlock(&lock);
    made();
    return flags == 1 ? 0 : INVALID_VALUE;
}
int cuStreamDestroy_v2(struct Stream* stream) { TRY_BOUND; finish_stream(stream); destroyed(); return 0; }
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
    made();
    return flags == 3 ? 0 : INVALID_VALUE;
}
int cuEventRecord(struct Event* event, struct Stream* stream) {
    TRY_BOUND;
    if (!event || !stream) return INVALID_VALUE;
    *event = (struct Event){stream, stream->added};
    return 0;
}
int cuEventSynchronize(struct Event* event) { TRY_BOUND; finish(*event); return 0; }
int cuEventDestroy_v2(struct Event* event) { TRY_BOUND; free(event); destroyed(); return 0; }

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

struct Function {
    char* name;
    u32 dynamic_shared;
    struct Function* next;
};
struct Module {
    struct Function* functions;
};

int cuModuleLoadDataEx(struct Module** module, const char* image, u32 count, const int* options, void** values) {
    if (count != 2 || options[0] != 5 || options[1] != 6) return INVALID_VALUE;
    const int code = fails(__func__);
    if (code) {
        snprintf(values[0], (size_t)(uintptr_t)values[1], "what the compiler says\n");
        return code;
    }
    if (current != &context) return INVALID_CONTEXT;
    if (memcmp(image, "\177ELF", 4) != 0 && !strstr(image, ".target sm_80")) return INVALID_VALUE;
    *module = calloc(1, sizeof **module);
    made();
    return 0;
}
int cuModuleUnload(struct Module* module) {
    TRY_BOUND;
    for (struct Function* function = module->functions; function;) {
        struct Function* next = function->next;
        free(function->name);
        free(function);
        function = next;
    }
    free(module);
    destroyed();
    return 0;
}
int cuModuleGetFunction(struct Function** function, struct Module* module, const char* name) {
    TRY_BOUND;
    if (!module || strcmp(name, "missing") == 0) return NOT_FOUND;
    struct Function* own = *function = malloc(sizeof *own);
    *own = (struct Function){.name = strdup(name), .next = module->functions};
    module->functions = own;
    return 0;
}
int cuFuncGetAttribute(int* value, int attribute, struct Function* function) {
    TRY_BOUND;
    (void)function;
    *value = attribute == 0 ? 256 : 0;
    return 0;
}
int cuFuncSetAttribute(struct Function* function, int attribute, int value) {
    TRY_BOUND;
    if (attribute != 8) return INVALID_VALUE;
    function->dynamic_shared = (u32)value;
    return 0;
}

// CUDA_KERNEL_NODE_PARAMS_v2.
struct Launch {
    struct Function* function;
    u32 x, y, z, threads, threads_y, threads_z, shared;
    void** parameters;
    void** extra;
    void *kernel, *context;
};

// What a launch will write, and where.
struct Kernel {
    u64 seen[6];
    void* to;
};

// Takes all that a kernel gets, arguments included.
static int take(struct Kernel* kernel, const struct Launch* launch) {
    if (launch->extra || launch->threads_y != 1 || launch->threads_z != 1) return INVALID_VALUE;
    if (launch->shared > 49152 && launch->shared > launch->function->dynamic_shared) return INVALID_VALUE;
    const u64* args = launch->parameters[0];
    *kernel = (struct Kernel){
        {launch->x, launch->y, launch->z, launch->threads, launch->shared, args[0]}, (void*)(uintptr_t)args[1]};
    return 0;
}
static void add_kernel(struct Stream* stream, const struct Kernel* kernel) {
    const size_t bytes = sizeof kernel->seen;
    u64* seen = memcpy(malloc(bytes), kernel->seen, bytes);
    add(stream, (struct Work){.to = kernel->to, .from = seen, .bytes = bytes, .owned = seen, .by_kernel = 1});
}

int cuLaunchKernel(struct Function* function, u32 x, u32 y, u32 z, u32 threads, u32 threads_y, u32 threads_z,
                   u32 shared, struct Stream* stream, void** parameters, void** extra) {
    TRY_BOUND;
    if (!stream) return INVALID_VALUE;
    struct Kernel kernel;
    const int code = take(
        &kernel, &(struct Launch){function, x, y, z, threads, threads_y, threads_z, shared, parameters, extra, 0, 0});
    if (!code) add_kernel(stream, &kernel);
    return code;
}

// A graph of kernels, each of which waits for the one before. Nodes are never more than these.
enum { NODES = 1024 };
struct Node {
    struct Function* function;
    struct Kernel kernel;
};
struct Graph {
    int count;
    struct Node nodes[NODES];
};

int cuGraphCreate(struct Graph** graph, u32 flags) {
    TRY_BOUND;
    *graph = calloc(1, sizeof **graph);
    made();
    return flags ? INVALID_VALUE : 0;
}
int cuGraphAddKernelNode_v2(struct Node** node, struct Graph* graph, struct Node* const* before, size_t count,
                            const struct Launch* launch) {
    TRY_BOUND;
    if (launch->kernel || launch->context || graph->count == NODES) return INVALID_VALUE;
    if (count != (graph->count > 0) || (count && *before != &graph->nodes[graph->count - 1])) return INVALID_VALUE;
    *node = &graph->nodes[graph->count++];
    (*node)->function = launch->function;
    return take(&(*node)->kernel, launch);
}
// An executable graph is a copy of the one it is made of, and finds its nodes by those of that one.
struct Executable {
    const struct Graph* of;
    struct Graph graph;
    int uploaded;
};
int cuGraphInstantiateWithFlags(struct Executable** executable, const struct Graph* graph, u64 flags) {
    TRY_BOUND;
    struct Executable* own = *executable = malloc(sizeof *own);
    *own = (struct Executable){.of = graph, .graph = *graph};
    made();
    return flags ? INVALID_VALUE : 0;
}
int cuGraphUpload(struct Executable* executable, struct Stream* stream) {
    TRY_BOUND;
    executable->uploaded = 1;
    return stream ? 0 : INVALID_VALUE;
}
int cuGraphExecKernelNodeSetParams_v2(struct Executable* executable, struct Node* node, const struct Launch* launch) {
    TRY_BOUND;
    const ptrdiff_t number = node - executable->of->nodes;
    if (number < 0 || number >= executable->graph.count || launch->function != node->function) return INVALID_VALUE;
    return take(&executable->graph.nodes[number].kernel, launch);
}
int cuGraphLaunch(struct Executable* executable, struct Stream* stream) {
    TRY_BOUND;
    if (!stream || !executable->uploaded) return INVALID_VALUE;
    for (int i = 0; i < executable->graph.count; i++) add_kernel(stream, &executable->graph.nodes[i].kernel);
    return 0;
}
int cuGraphExecDestroy(struct Executable* executable) { TRY_BOUND; free(executable); destroyed(); return 0; }
int cuGraphDestroy(struct Graph* graph) { TRY_BOUND; free(graph); destroyed(); return 0; }
