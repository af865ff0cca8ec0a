// Runs a grid: blocks one after another, the threads of a block as fibers.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <numeric>
#include <vector>

#include "host_launch.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace dcnlab_host {
namespace {

constexpr size_t stack_bytes = 256 * 1024;

// ---- Switching stacks -----------------------------------------------------------------------------------------------------

#if defined(__x86_64__)

// What the C calling convention says a callee keeps; swapcontext would also make two system calls.
struct Context {
    void* stack_pointer = nullptr;
};
extern "C" void dcnlab_switch(void** save, void* load);
asm(R"(
.text
.local dcnlab_switch
.type dcnlab_switch, @function
dcnlab_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size dcnlab_switch, . - dcnlab_switch
)");

void prepare(Context& context, char* stack, void (*entry)()) {
    void** top = reinterpret_cast<void**>(stack + stack_bytes);
    *--top = nullptr;  // what `entry` would return to; it leaves the stack aligned as a call would
    *--top = reinterpret_cast<void*>(entry);
    top -= 6;  // the registers popped above
    memset(top, 0, 6 * sizeof(void*));
    context.stack_pointer = top;
}
void swap(Context& from, Context& to) { dcnlab_switch(&from.stack_pointer, to.stack_pointer); }

#else

struct Context {
    ucontext_t context;
};
void prepare(Context& context, char* stack, void (*entry)()) {
    getcontext(&context.context);
    context.context.uc_stack.ss_sp = stack;
    context.context.uc_stack.ss_size = stack_bytes;
    context.context.uc_link = nullptr;
    makecontext(&context.context, entry, 0);
}
void swap(Context& from, Context& to) { swapcontext(&from.context, &to.context); }

#endif

// AddressSanitizer has to be told which stack is in use.
void before_switch([[maybe_unused]] void** fake, [[maybe_unused]] const void* stack, [[maybe_unused]] size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(fake, stack, bytes);
#endif
}
void after_switch([[maybe_unused]] void* fake, [[maybe_unused]] const void** stack, [[maybe_unused]] size_t* bytes) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, stack, bytes);
#endif
}

// ---- Threads ------------------------------------------------------------------------------------------------------------------

enum class State { runnable, at_barrier, at_warp_operation, returned };

struct Copy {
    int4* to;
    const int4* from;  // null: zeros
};

struct Thread {
    Context context;
    char* stack;
    void* fake_stack;
    uint3 index;
    unsigned number;  // in the block
    State state;
    Site site;
    // The warp operation it waits in, and what came of it.
    Op op;
    unsigned mask;
    uint64_t value, result;
    int operand, width;
    Collective together;
    std::vector<Copy> copies;  // under way
};

struct Shared {
    const void* key;
    char* memory;
    size_t bytes;
};

// Everything about the launch under way.
std::vector<Thread> threads;
Context scheduler;
void* scheduler_fake_stack;
const void* scheduler_stack;
size_t scheduler_stack_bytes;
Thread* current;  // null while the scheduler runs
Body body;
void* closure;
std::string problem;
std::vector<Shared> shared;
char* dynamic_shared;
size_t dynamic_shared_bytes;
uint64_t random_state;

uint64_t random_number() {  // splitmix64
    uint64_t z = random_state += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

std::string name(uint3 index) {
    return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " + std::to_string(index.z) + ")";
}

void resume(Thread& thread) {
    current = &thread;
    threadIdx = thread.index;
    before_switch(&scheduler_fake_stack, thread.stack, stack_bytes);
    swap(scheduler, thread.context);
    after_switch(scheduler_fake_stack, nullptr, nullptr);
    current = nullptr;
}

void yield() {
    Thread& thread = *current;
    before_switch(&thread.fake_stack, scheduler_stack, scheduler_stack_bytes);
    swap(thread.context, scheduler);
    after_switch(thread.fake_stack, nullptr, nullptr);
}

[[noreturn]] void fail(const std::string& message) {
    problem = "thread " + name(current->index) + " of block " + name(blockIdx) + ": " + message;
    for (;;) yield();
}

void thread_main() {
    after_switch(nullptr, &scheduler_stack, &scheduler_stack_bytes);
    for (;;) {  // once for every block
        body(closure);
        current->state = State::returned;
        yield();
    }
}

// ---- Warps --------------------------------------------------------------------------------------------------------------------

// The lane that a shuffle reads.
int source_lane(const Thread& thread, int lane) {
    const int width = thread.width, first = lane & ~(width - 1), last = first + width - 1;
    switch (thread.op) {
        case Op::shuffle: return first | (thread.operand & (width - 1));
        case Op::shuffle_up: return lane - thread.operand < first ? lane : lane - thread.operand;
        case Op::shuffle_down: return lane + thread.operand > last ? lane : lane + thread.operand;
        default: return (lane ^ thread.operand) > last ? lane : lane ^ thread.operand;
    }
}

// Lets the lanes go that the waiting thread waits for, if each has come or returned.
bool release_lanes(const Thread& waiting) {
    const unsigned first = waiting.number & ~31u;
    const size_t lanes = threads.size() - first < 32 ? threads.size() - first : 32;
    Thread* warp = &threads[first];
    unsigned present = 0;
    for (unsigned lane = 0; lane < lanes; ++lane) {
        if (!(waiting.mask >> lane & 1)) continue;
        const Thread& other = warp[lane];
        if (other.state == State::returned) continue;
        if (other.state != State::at_warp_operation || other.op != waiting.op || other.mask != waiting.mask ||
            other.site.line != waiting.site.line || strcmp(other.site.file, waiting.site.file) != 0)
            return false;
        present |= 1u << lane;
    }
    if (waiting.op == Op::collective) {
        if (present != 0xffffffffu) return false;
        void* handed_over[32];
        for (unsigned lane = 0; lane < 32; ++lane) handed_over[lane] = reinterpret_cast<void*>(warp[lane].value);
        waiting.together(handed_over);
    }
    unsigned votes = 0;
    for (unsigned lane = 0; lane < lanes; ++lane)
        if (present >> lane & 1 && warp[lane].value != 0) votes |= 1u << lane;
    for (unsigned lane = 0; lane < lanes; ++lane) {
        if (!(present >> lane & 1)) continue;
        Thread& thread = warp[lane];
        if (thread.op == Op::ballot) {
            thread.result = votes;
        } else if (thread.op == Op::match) {
            thread.result = 0;
            for (unsigned other = 0; other < lanes; ++other)
                if (present >> other & 1 && warp[other].value == thread.value) thread.result |= 1u << other;
        } else if (thread.op != Op::syncwarp && thread.op != Op::collective) {
            const int source = source_lane(thread, int(lane));
            // A lane that takes no part has no value: all ones, NaN in every floating type.
            thread.result = present >> source & 1 ? warp[source].value : ~uint64_t(0);
        }
    }
    for (unsigned lane = 0; lane < lanes; ++lane)
        if (present >> lane & 1) warp[lane].state = State::runnable;
    return true;
}

// ---- Blocks -------------------------------------------------------------------------------------------------------------------

std::string place(const Site& site) { return std::string(site.file) + ":" + std::to_string(site.line); }

std::string waits_for(const Thread& thread) {
    if (thread.state == State::returned) return "returned";
    const char* what = thread.state == State::at_barrier ? "__syncthreads" : "a warp operation";
    return std::string("wait in ") + what + ", " + place(thread.site);
}

// Called when no thread can run: opens a barrier that all have reached, or finds lanes whose partners have returned.
bool release() {
    bool together = true, released = false;
    for (const Thread& thread : threads)
        together = together && thread.state == State::at_barrier && thread.site.line == threads[0].site.line &&
                   strcmp(thread.site.file, threads[0].site.file) == 0;
    if (together) {
        for (Thread& thread : threads) thread.state = State::runnable;
        return true;
    }
    for (const Thread& thread : threads)
        if (thread.state == State::at_warp_operation) released = release_lanes(thread) || released;
    return released;
}

std::string describe_divergence() {
    std::vector<std::pair<std::string, std::pair<const Thread*, size_t>>> groups;
    for (const Thread& thread : threads) {
        const std::string what = waits_for(thread);
        bool known = false;
        for (auto& group : groups)
            if (group.first == what) known = true, ++group.second.second;
        if (!known) groups.push_back({what, {&thread, 1}});
    }
    std::string message = "the threads of block " + name(blockIdx) + " have diverged:";
    for (const auto& group : groups)
        message += "\n  " + std::to_string(group.second.second) + " " + group.first + "; the first is thread " +
                   name(group.second.first->index);
    return message;
}

void poison(char* memory, size_t bytes) { memset(memory, 0xff, bytes); }

void run_block(int order, std::vector<unsigned>& sequence) {
    for (Thread& thread : threads) {
        thread.state = State::runnable;
        thread.copies.clear();
    }
    for (const Shared& variable : shared) poison(variable.memory, variable.bytes);
    poison(dynamic_shared, dynamic_shared_bytes);
    const size_t count = threads.size();
    for (;;) {
        if (order == 2)
            for (size_t last = count; last > 1; --last) std::swap(sequence[last - 1], sequence[random_number() % last]);
        // In random order some warps stand still for a while, so that others run ahead, up to the next barrier.
        const uint64_t still = order == 2 ? random_number() : 0;
        bool ran = false, all_returned = true;
        for (size_t turn = 0; turn < count; ++turn) {
            Thread& thread = threads[order == 0 ? turn : order == 1 ? count - 1 - turn : sequence[turn]];
            if (thread.state == State::runnable) {
                ran = true;
                if (!(still >> (thread.number / 32 % 32 + 8) & 1)) resume(thread);
                if (!problem.empty()) return;
            }
            all_returned = all_returned && thread.state == State::returned;
        }
        if (all_returned) return;
        if (!ran && !release()) {
            problem = describe_divergence();
            return;
        }
    }
}

}  // namespace

void block_barrier(Site site) {
    if (thread_waits) thread_waits(true);
    current->site = site;
    current->state = State::at_barrier;
    yield();
}

uint64_t warp_operation(Op op, unsigned mask, uint64_t value, int operand, int width, Site site) {
    if (thread_waits) thread_waits(false);
    Thread& thread = *current;
    if (!(mask >> (thread.number % 32) & 1)) fail("its own lane is not in the mask of the warp operation at " + place(site));
    if (width < 1 || width > 32 || (width & (width - 1)) != 0) fail("the width is no power of two up to 32 at " + place(site));
    thread.site = site;
    thread.op = op;
    thread.mask = mask;
    thread.value = value;
    thread.operand = operand;
    thread.width = width;
    thread.state = State::at_warp_operation;
    release_lanes(thread);
    yield();
    return thread.result;
}

void warp_collective(Collective together, void* lane, Site site) {
    current->together = together;
    warp_operation(Op::collective, 0xffffffffu, reinterpret_cast<uint64_t>(lane), 0, 32, site);
}

void copy_later(int4* to, const int4* from) {
    poison(reinterpret_cast<char*>(to), sizeof(int4));
    current->copies.push_back({to, from});
}

void copy_now() {
    for (const Copy& copy : current->copies) *copy.to = copy.from == nullptr ? int4() : *copy.from;
    current->copies.clear();
}

void check_shared(const void* address, size_t bytes, Site site) {
    const char* begin = static_cast<const char*>(address);
    const auto within = [&](const char* memory, size_t size) { return begin >= memory && begin + bytes <= memory + size; };
    for (const Shared& variable : shared)
        if (within(variable.memory, variable.bytes)) return;
    if (!within(dynamic_shared, dynamic_shared_bytes)) fail("the address is not in shared memory at " + place(site));
}

void* shared_memory(const void* key, size_t bytes, size_t alignment) {
    if (current == nullptr) {
        fputs("__shared__ must be declared inside a kernel or a device function\n", stderr);
        abort();
    }
    for (const Shared& variable : shared)
        if (variable.key == key) return variable.memory;
    // Aligned as declared and no better, so that a 16-byte access to a mere float array shows; ends where its block ends, so
    // that AddressSanitizer sees an access beyond it.
    const size_t offset = alignment < 16 ? 16 + alignment : alignment;
    void* allocated = nullptr;
    if (posix_memalign(&allocated, alignment < 16 ? 16 : alignment, offset + bytes) != 0) fail("no memory for __shared__");
    char* start = static_cast<char*>(allocated);
#if defined(__SANITIZE_ADDRESS__)
    ASAN_POISON_MEMORY_REGION(start, offset & ~size_t(7));
#endif
    shared.push_back({key, start + offset, bytes});
    poison(start + offset, bytes);
    return start + offset;
}

bool is_shared(const void* address) {
    const char* at = static_cast<const char*>(address);
    for (const Shared& variable : shared)
        if (at >= variable.memory && at < variable.memory + variable.bytes) return true;
    return at >= dynamic_shared && at < dynamic_shared + dynamic_shared_bytes;
}

void* dynamic_shared_memory() {
    if (current == nullptr) {
        fputs("extern __shared__ must be declared inside a kernel or a device function\n", stderr);
        abort();
    }
    return dynamic_shared;
}

std::string run_grid(const Launch& launch, Body kernel, void* arguments) {
    gridDim = dim3(launch.grid[0], launch.grid[1], launch.grid[2]);
    blockDim = dim3(launch.block[0], launch.block[1], launch.block[2]);
    body = kernel;
    closure = arguments;
    problem.clear();
    random_state = launch.seed;
    dynamic_shared_bytes = launch.shared_bytes;
    dynamic_shared = static_cast<char*>(malloc(dynamic_shared_bytes + (dynamic_shared_bytes == 0)));

    const size_t page = size_t(sysconf(_SC_PAGESIZE)), count = size_t(blockDim.x) * blockDim.y * blockDim.z;
    const size_t pitch = stack_bytes + page, reserve = pitch * count + page;
    char* stacks = static_cast<char*>(
        mmap(nullptr, reserve, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (stacks == MAP_FAILED) return "no memory for the threads' stacks";
    threads.assign(count, Thread());
    for (size_t number = 0; number < count; ++number) {
        Thread& thread = threads[number];
        mprotect(stacks + number * pitch, page, PROT_NONE);  // a stack that grows too long stops here
        thread.stack = stacks + number * pitch + page;
        thread.number = unsigned(number);
        thread.index = make_uint3(unsigned(number % blockDim.x), unsigned(number / blockDim.x % blockDim.y),
                                  unsigned(number / blockDim.x / blockDim.y));
        prepare(thread.context, thread.stack, thread_main);
    }

    std::vector<unsigned> sequence(count);
    std::iota(sequence.begin(), sequence.end(), 0u);
    const uint64_t blocks = uint64_t(gridDim.x) * gridDim.y * gridDim.z;
    std::vector<uint64_t> block_sequence;
    if (launch.order == 2) {
        block_sequence.resize(blocks);
        std::iota(block_sequence.begin(), block_sequence.end(), uint64_t(0));
        for (uint64_t last = blocks; last > 1; --last)
            std::swap(block_sequence[last - 1], block_sequence[random_number() % last]);
    }
    for (uint64_t turn = 0; turn < blocks && problem.empty(); ++turn) {
        const uint64_t block = launch.order == 0 ? turn : launch.order == 1 ? blocks - 1 - turn : block_sequence[turn];
        blockIdx = make_uint3(unsigned(block % gridDim.x), unsigned(block / gridDim.x % gridDim.y),
                              unsigned(block / gridDim.x / gridDim.y));
        run_block(launch.order, sequence);
        if (block_ends) block_ends();
    }

    munmap(stacks, reserve);
    free(dynamic_shared);
    return problem;
}

}  // namespace dcnlab_host

// Runs the kernel of this name: null, or what went wrong (valid until the next call).
extern "C" const char* dcnlab_run(const char* name, const dcnlab_host::Launch* launch) {
    static std::string message;
    for (const dcnlab_host::Kernel* kernel = dcnlab_host::kernels; kernel->name != nullptr; ++kernel) {
        if (strcmp(kernel->name, name) != 0) continue;
        message = kernel->run(*launch);
        return message.empty() ? nullptr : message.c_str();
    }
    message = "no such kernel in this text";
    return message.c_str();
}
