// The scheduler. Threads are fibers on one thread of the host; blocks run one after the other, those of a cluster side by side.
// Seed 0 takes blocks and threads in order, any other seed draws both, and whether warps keep together or run
// far apart.
#include "emu.h"

#include "ptx_emu.h"
#include "scheduler.h"

#include <dlfcn.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <map>
#include <mutex>
#include <string>
#include <ucontext.h>
#ifdef EMU_TSAN
#include <sanitizer/tsan_interface.h>
#endif

namespace emu {

Lane* current;
Lane* lanes;
Dim block_index, block_dim, grid_dim;
bool print_errors = true;

namespace {

constexpr unsigned MAX_THREADS = 1024, MAX_WARPS = 32; // of a block, and of a cluster
constexpr unsigned MAX_BLOCKS = 8;                      // of a cluster
constexpr size_t STACK_BYTES = 128 * 1024, PAGE = 4096;
// Stacks begin at different offsets, or their ends would share a few sets of the host's cache.
size_t stack_offset(unsigned t) { return t % 128 * 320; }
// The most a block may have on an H100; and how much of it may be static.
constexpr size_t DYNAMIC_BYTES = 227 * 1024, STATIC_BYTES = 48 * 1024;
// Behind every piece of shared memory there is poison that must stay untouched.
constexpr size_t SMEM_GUARD = 128;
constexpr unsigned char POISON = 0xff; // NaN in every float type, an absurd id

struct Warp { uint32_t live, arrived, runnable; };
struct StaticArray { const void* key; size_t offset, bytes; };

// ---- A fiber: a stack and where it stopped ----

#ifdef __x86_64__
typedef void* Context;
extern "C" void emu_switch(Context* save, Context load);
// Callee-saved registers of the System V ABI.
asm(R"(
.text
.type emu_switch,@function
emu_switch:
    pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
    ret
.size emu_switch,.-emu_switch
)");
void make_context(Context* c, char* stack, size_t bytes, void (*entry)()) {
    // `ret` leaves the stack pointer 8 below a multiple of 16, as after a call.
    void** sp = reinterpret_cast<void**>(stack + bytes) - 1;
    *--sp = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; i++) *--sp = nullptr;
    *c = sp;
}
void switch_context(Context* save, Context* load) { emu_switch(save, *load); }
#else
typedef ucontext_t Context;
void make_context(Context* c, char* stack, size_t bytes, void (*entry)()) {
    getcontext(c);
    c->uc_stack.ss_sp = stack;
    c->uc_stack.ss_size = bytes;
    c->uc_link = nullptr;
    makecontext(c, entry, 0);
}
void switch_context(Context* save, Context* load) { swapcontext(save, load); }
#endif

// ---- The running launch ----

std::vector<Lane> lane_store(MAX_THREADS); // of all blocks of a cluster
Context context_store[MAX_THREADS], main_context;
struct Block {
    Dim index;
    Warp warps[MAX_WARPS];
    uint32_t at_barrier[MAX_WARPS];
    unsigned waiting, live;
    unsigned char *smem, *static_area;
};
Block blocks[MAX_BLOCKS];
unsigned n_blocks, n_threads, n_warps; // of the running cluster, of each of its blocks
// Of the block of the current thread.
Block* block;
Context* contexts;
Warp* warps;
uint32_t* at_barrier;
bool random_order, warp_by_warp; // the second: a warp goes on for as long as it can, far ahead of the others
uint64_t random_state;
const Kernel* kernel;
void** kernel_args;
std::vector<StaticArray> static_arrays;
size_t static_top, dynamic_bytes;
unsigned char *smem, *static_area;
char* stacks;
sigjmp_buf escape;
volatile sig_atomic_t inside;
int code;
std::string message;
// ---- What ThreadSanitizer is told: who runs, and what a barrier orders. Nothing without it. ----

#ifdef EMU_TSAN
// Addresses that stand for barriers. Two take turns: a thread that is already at the next barrier must
// not hand its accesses to one that still leaves the last.
struct Order {
    uint64_t barrier[2], warp[MAX_WARPS][3];
    unsigned barriers, warps[MAX_WARPS];
};
Order* order;         // of the block; a new one has no past
uint64_t order_ended; // what all blocks did before the launch ended
void *fibers[MAX_THREADS], *main_fiber;
// Blocks in the middle of a grid do what its first and last ones do, and cost as much.
constexpr size_t BLOCKS_AT_AN_END = 1;
void leave_out_the_middle(std::vector<unsigned>& sequence) {
    if (sequence.size() > 2 * BLOCKS_AT_AN_END) sequence.erase(sequence.begin() + BLOCKS_AT_AN_END, sequence.end() - BLOCKS_AT_AN_END);
}
void tsan_switch(void* fiber) { __tsan_switch_to_fiber(fiber, __tsan_switch_to_fiber_no_sync); }
#define RELEASE(x) __tsan_release(&(x))
#define ACQUIRE(x) __tsan_acquire(&(x))
#define UNDER_TSAN(...) __VA_ARGS__
constexpr unsigned MAX_BLOCKS_HERE = 1; // clusters are not replayed
#else
constexpr unsigned MAX_BLOCKS_HERE = MAX_BLOCKS;
#define RELEASE(x)
#define ACQUIRE(x)
#define UNDER_TSAN(...)
#endif

uint64_t draw() { // xorshift64
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    return random_state ^= random_state << 17;
}

// The block whose thread runs.
void enter(unsigned rank) {
    block = &blocks[rank];
    block_index = block->index;
    warps = block->warps, at_barrier = block->at_barrier;
    smem = block->smem, static_area = block->static_area;
    lanes = lane_store.data() + rank * n_threads;
    contexts = context_store + rank * n_threads;
    enter_block(rank);
}
unsigned current_rank() { return unsigned(block - blocks); }

// The thread of a block that goes on, or null when all wait.
Lane* pick_in(unsigned rank) {
    const Warp* const warps = blocks[rank].warps;
    Lane* const lanes = lane_store.data() + rank * n_threads;
    if (random_order) {
        // From a warp and a lane that are drawn, the next ones that can.
        const uint64_t drawn = draw();
        unsigned w = unsigned(drawn >> 32) % n_warps, turns = 0;
        if (warp_by_warp && current && warps[current->warp].runnable != 0) w = current->warp;
        for (; turns < n_warps && warps[w].runnable == 0; turns++) w = w + 1 == n_warps ? 0 : w + 1;
        if (turns == n_warps) return nullptr;
        const uint32_t r = warps[w].runnable, later = r & (~0u << drawn % 32);
        return &lanes[w * 32 + unsigned(__builtin_ctz(later != 0 ? later : r))];
    }
    const unsigned first = current ? current->warp : 0;
    const uint32_t here = warps[first].runnable;
    // Later lanes of this warp, its other lanes, then the next warp.
    const uint32_t later = current && current->lane < 31 ? here & (~0u << (current->lane + 1)) : 0;
    if (later != 0) return &lanes[first * 32 + unsigned(__builtin_ctz(later))];
    for (unsigned i = 0; i < n_warps; i++) {
        const unsigned w = (first + i) % n_warps;
        if (warps[w].runnable != 0) return &lanes[w * 32 + unsigned(__builtin_ctz(warps[w].runnable))];
    }
    return nullptr;
}

// The same of the cluster. Its blocks take turns.
Lane* pick() {
    const unsigned first = n_blocks > 1 && random_order && (draw() >> 40) % 4 == 0 ? unsigned(draw() >> 32) % n_blocks : current_rank();
    for (unsigned i = 0; i < n_blocks; i++) {
        Lane* const found = pick_in((first + i) % n_blocks);
        if (found) return found;
    }
    return nullptr;
}

void go_to(Lane* next) {
    Lane* const me = current;
    if (next == me) return;
    Context* const mine = &contexts[me->linear];
    if (next->block != me->block) enter(next->block);
    current = next;
    UNDER_TSAN(tsan_switch(fibers[next->linear]);)
    switch_context(mine, &contexts[next->linear]);
}

} // namespace

const char* name_of(Op op) {
    switch (op) {
        case Op::Shuffle: return "a shuffle";
        case Op::Vote: return "a vote";
        case Op::SyncWarp: return "__syncwarp";
        case Op::LdMatrix: return "ldmatrix_x4";
        case Op::LdMatrixTrans: return "ldmatrix_x4_trans";
        case Op::Mma: return "mma_16816";
        case Op::SyncThreads: return "__syncthreads";
        case Op::Wgmma: return "wgmma";
        case Op::WgmmaFence: return "wgmma_fence";
        case Op::WgmmaCommit: return "wgmma_commit";
        case Op::WgmmaWait: return "wgmma_wait";
        case Op::MaxRegisters: return "set_max_registers";
        case Op::NamedBarrier: return "named_barrier_sync";
        case Op::Mbarrier: return "mbarrier_wait";
        case Op::ClusterSync: return "cluster_sync";
        default: return "nothing";
    }
}

namespace {

[[noreturn]] void deadlock() {
    std::string text;
    const Lane* before = nullptr;
    for (unsigned t = 0; t < n_blocks * n_threads; t++) {
        const Lane& l = lane_store[t];
        if (l.done || (before && l.block == before->block && l.warp == before->warp && !(l.site != before->site))) continue;
        before = &l;
        char line[400];
        if (n_blocks > 1) text += "\n  block " + std::to_string(l.block) + " of the cluster";
        snprintf(line, sizeof line, "\n  warp %u lane %u waits in %s, %s:%d", l.warp, l.lane, name_of(l.op), l.site.file, l.site.line);
        text += line + describe_wait(l);
    }
    fail("deadlock: no thread can go on%s", text.c_str());
}

void block_current() {
    Lane* next = pick();
    // What is under way lands at the latest when all threads wait.
    while (!next && land_one()) next = pick();
    if (!next) deadlock();
    go_to(next);
}

// All that are at the barrier go on.
void open_barrier() {
    block->waiting = 0;
    for (unsigned w = 0; w < n_warps; w++) {
        warps[w].runnable |= at_barrier[w];
        at_barrier[w] = 0;
    }
}

void fiber_main() {
    kernel->call(kernel_args);
    Lane* const me = current;
    bool under_way = !me->copies.empty();
    for (const auto& group : me->groups) under_way = under_way || !group.empty(); // a group may be empty
    if (under_way) fail("the thread ends while its cp.async copies are under way");
    end_of_thread();
    me->done = true;
    block->live--;
    warps[me->warp].live &= ~(1u << me->lane);
    warps[me->warp].runnable &= ~(1u << me->lane);
    RELEASE(order_ended);
    if (block->waiting > 0 && block->waiting == block->live) { // exited threads are not waited for
        UNDER_TSAN(order->barriers++;)
        open_barrier();
    }
    if (block->live == 0) end_of_block();
    leave_cluster();
    if (living() == 0) {
        UNDER_TSAN(tsan_switch(main_fiber);)
        switch_context(&contexts[me->linear], &main_context);
    } else {
        block_current();
    }
    __builtin_unreachable();
}

char* map(size_t bytes) {
    void* const p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        perror("emulation: mmap");
        abort();
    }
    return static_cast<char*>(p);
}

// A stack that overflows meets a page that may not be touched.
void prepare_memory() {
#ifdef EMU_TSAN
    // New for every block, whose threads are then new ones: ThreadSanitizer forgets what it knew of the
    // addresses, and sees no order between blocks.
    if (stacks) {
        for (unsigned t = 0; t < MAX_THREADS && fibers[t]; t++) __tsan_destroy_fiber(fibers[t]);
        delete order;
        munmap(stacks, STACK_BYTES * MAX_THREADS);
        munmap(blocks[0].smem, DYNAMIC_BYTES + SMEM_GUARD);
        munmap(blocks[0].static_area, STATIC_BYTES + SMEM_GUARD);
        stacks = nullptr;
    }
#endif
    if (stacks) return;
    stacks = map(STACK_BYTES * MAX_THREADS);
    for (unsigned t = 0; t < MAX_THREADS; t++) mprotect(stacks + t * STACK_BYTES, PAGE, PROT_NONE);
    // mmap gives whole pages, hence the 1024 bytes that DYN_SMEM promises.
    for (unsigned b = 0; b < MAX_BLOCKS_HERE; b++) {
        blocks[b].smem = reinterpret_cast<unsigned char*>(map(DYNAMIC_BYTES + SMEM_GUARD));
        blocks[b].static_area = reinterpret_cast<unsigned char*>(map(STATIC_BYTES + SMEM_GUARD));
    }
#ifdef EMU_TSAN
    order = new Order{};
    for (unsigned t = 0; t < MAX_THREADS; t++) fibers[t] = t < n_threads ? __tsan_create_fiber(0) : nullptr;
#endif
}

// Not through memset, which ThreadSanitizer would see.
void poison(unsigned char* from, size_t bytes) {
#ifdef EMU_TSAN
    for (size_t i = 0; i < bytes; i++) const_cast<volatile unsigned char*>(from)[i] = POISON;
#else
    memset(from, POISON, bytes);
#endif
}

void expect_poison(const unsigned char* from, size_t bytes, const char* what) {
    for (size_t i = 0; i < bytes; i++) {
        if (from[i] != POISON) fail("the block wrote %zu bytes behind its %s", i + 1, what);
    }
}

// The cluster of which `first` is the first block.
void run_cluster(Dim first, Dim cluster) {
    prepare_memory();
    current = nullptr;
    for (unsigned b = 0; b < n_blocks; b++) {
        const Dim in = { b % cluster.x, b / cluster.x % cluster.y, b / cluster.x / cluster.y };
        blocks[b].index = { first.x + in.x, first.y + in.y, first.z + in.z };
        blocks[b].live = n_threads;
        blocks[b].waiting = 0;
        poison(blocks[b].smem, dynamic_bytes + SMEM_GUARD);
        poison(blocks[b].static_area, STATIC_BYTES + SMEM_GUARD);
        for (unsigned w = 0; w < n_warps; w++) {
            const unsigned n = n_threads - w * 32;
            const uint32_t all = n >= 32 ? ~0u : (1u << n) - 1;
            blocks[b].warps[w] = { all, 0, all };
            blocks[b].at_barrier[w] = 0;
        }
        for (unsigned t = 0; t < n_threads; t++) {
            const unsigned in_cluster = b * n_threads + t;
            Lane& l = lane_store[in_cluster];
            l.thread = { t % block_dim.x, t / block_dim.x % block_dim.y, t / (block_dim.x * block_dim.y) };
            l.linear = t, l.warp = t / 32, l.lane = t % 32, l.block = b;
            l.done = false;
            l.op = Op::None;
            l.copies.clear();
            l.groups.clear();
            make_context(&context_store[in_cluster], stacks + in_cluster * STACK_BYTES, STACK_BYTES - stack_offset(in_cluster), fiber_main);
        }
        begin_of_block(b, n_blocks, n_threads, blocks[b].smem, dynamic_bytes, random_order ? random_state : 0);
    }
    enter(0);
    current = pick();
    if (current->block != 0) enter(current->block);
    UNDER_TSAN(tsan_switch(fibers[current->linear]);)
    switch_context(&main_context, &contexts[current->linear]);
    current = nullptr;
    for (unsigned b = 0; b < n_blocks; b++) {
        enter(b);
        expect_poison(smem + dynamic_bytes, SMEM_GUARD, "dynamic shared memory");
        for (const StaticArray& a : static_arrays) {
            expect_poison(static_area + a.offset + a.bytes, SMEM_GUARD, "array in static shared memory");
        }
    }
}

// ---- Faults ----

void* code_of(void* context) {
#if defined(__x86_64__)
    // One further, because a return address is.
    return reinterpret_cast<void*>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP] + 1);
#elif defined(__aarch64__)
    return reinterpret_cast<void*>(static_cast<ucontext_t*>(context)->uc_mcontext.pc + 1);
#else
    return context ? nullptr : context;
#endif
}

struct sigaction earlier_segv, earlier_bus;
stack_t earlier_stack;

void on_fault(int signal, siginfo_t* info, void* context) {
    if (inside) {
        inside = 0; // what faults from here on is the emulation's own
        code = CUDA_ILLEGAL_ADDRESS;
        fail("illegal access at %s%s", describe_address(info->si_addr).c_str(), line_of(code_of(context)).c_str());
    }
    const struct sigaction& earlier = signal == SIGSEGV ? earlier_segv : earlier_bus;
    if (earlier.sa_flags & SA_SIGINFO) return earlier.sa_sigaction(signal, info, context);
    sigaction(signal, &earlier, nullptr); // the access happens again, and ends as it would have
}

// Installed for the time of a launch: the program may have handlers of its own.
void catch_faults() {
    // Of its own: a stack overflow leaves no room for the handler, and the program's is small.
    constexpr size_t BYTES = 64 * 1024;
    static char* const signal_stack = map(BYTES);
    stack_t mine = {};
    mine.ss_sp = signal_stack;
    mine.ss_size = BYTES;
    sigaltstack(&mine, &earlier_stack);
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &action, &earlier_segv);
    sigaction(SIGBUS, &action, &earlier_bus);
}
void release_faults() {
    sigaction(SIGSEGV, &earlier_segv, nullptr);
    sigaction(SIGBUS, &earlier_bus, nullptr);
    sigaltstack(&earlier_stack, nullptr);
}

std::map<std::string, Kernel>& registry() {
    static std::map<std::string, Kernel> kernels;
    return kernels;
}

int refuse(int error, std::string why) {
    message = std::move(why);
    return error;
}
} // namespace

std::string line_of(void* code) {
    Dl_info info;
    if (!code || !dladdr(code, &info)) return "";
    char command[4200];
    const size_t offset = size_t(static_cast<char*>(code) - static_cast<char*>(info.dli_fbase));
    snprintf(command, sizeof command, "addr2line -i -e '%s' %#zx 2>/dev/null", info.dli_fname, offset - 1);
    FILE* const lines = popen(command, "r");
    if (!lines) return "";
    std::string text;
    for (char line[4200]; fgets(line, sizeof line, lines);) {
        std::string place = line;
        place = place.substr(0, place.find_first_of(" \n"));
        if (place.rfind('/') != std::string::npos) place = place.substr(place.rfind('/') + 1);
        if (place.find('?') == std::string::npos) text += (text.empty() ? " (" : " from ") + place;
    }
    pclose(lines);
    return text.empty() ? text : text + ")";
}

Register::Register(Kernel k) { registry()[k.name] = std::move(k); }
const Kernel* find_kernel(const char* name) {
    const auto found = registry().find(name);
    return found == registry().end() ? nullptr : &found->second;
}
std::vector<std::string> kernel_names() {
    std::vector<std::string> names;
    for (const auto& [name, k] : registry()) names.push_back(name);
    return names;
}

void fail(const char* format, ...) {
    char text[4000], where[300];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    inside = 0;
    if (current) {
        const uint3 t = current->thread;
        snprintf(where, sizeof where, "kernel %s, block (%u, %u, %u), thread (%u, %u, %u): ", kernel->name, block_index.x,
                 block_index.y, block_index.z, t.x, t.y, t.z);
    } else {
        snprintf(where, sizeof where, "kernel %s: ", kernel->name);
    }
    message = std::string(where) + text;
    if (print_errors) fprintf(stderr, "emulation: %s\n", message.c_str());
#ifdef EMU_TSAN
    _exit(2);
#else
    siglongjmp(escape, 1);
#endif
}

void preempt() {
    if (!random_order) return;
    land_some();
    Lane* const next = pick();
    if (next) go_to(next);
}

bool warp_arrive(Op op, uint32_t mask, const void* post, Site site) {
    Warp& w = warps[current->warp];
    const uint32_t me = 1u << current->lane;
    if (!(mask & me)) fail("lane %u calls %s but is not in its mask %08x (%s:%d)", current->lane, name_of(op), mask, site.file, site.line);
    if (mask & ~w.live) fail("%s waits for lanes %08x that have ended or do not exist (%s:%d)", name_of(op), mask & ~w.live, site.file, site.line);
    current->op = op, current->mask = mask, current->site = site, current->post = post;
    w.arrived |= me;
    if ((w.arrived & mask) != mask) {
        w.runnable &= ~me;
        block_current();
        return false;
    }
    for (uint32_t m = mask; m != 0; m &= m - 1) {
        const Lane& o = lane_of(unsigned(__builtin_ctz(m)));
        if (o.op != op || o.mask != mask || o.site != site) {
            fail("a warp diverges: lane %u in %s of %08x at %s:%d, lane %u in %s of %08x at %s:%d", current->lane, name_of(op), mask, site.file,
                 site.line, o.lane, name_of(o.op), o.mask, o.site.file, o.site.line);
        }
    }
    return true;
}

void warp_release(uint32_t mask) {
    warps[current->warp].arrived &= ~mask;
    warps[current->warp].runnable |= mask;
    preempt();
}

void sync_warp(uint32_t mask, Site site) {
    UNDER_TSAN(const unsigned turn = mask == ~0u ? order->warps[current->warp] % 2 : 2;)
    RELEASE(order->warp[current->warp][turn]);
    if (warp_arrive(Op::SyncWarp, mask, nullptr, site)) {
        UNDER_TSAN(order->warps[current->warp] += mask == ~0u;)
        warp_release(mask);
    }
    ACQUIRE(order->warp[current->warp][turn]);
}

void sync_threads(Site site) {
    for (unsigned w = 0; block->waiting > 0 && w < n_warps; w++) {
        if (at_barrier[w] == 0) continue;
        const Lane& other = lanes[w * 32 + unsigned(__builtin_ctz(at_barrier[w]))];
        if (other.site != site) {
            fail("threads of a block at different barriers: this one at %s:%d, thread %u at %s:%d", site.file, site.line,
                 other.linear, other.site.file, other.site.line);
        }
        break;
    }
    current->op = Op::SyncThreads, current->site = site;
    UNDER_TSAN(const unsigned turn = order->barriers % 2;)
    RELEASE(order->barrier[turn]);
    if (++block->waiting == block->live) {
        UNDER_TSAN(order->barriers++;)
        open_barrier();
        preempt();
    } else {
        at_barrier[current->warp] |= 1u << current->lane;
        warps[current->warp].runnable &= ~(1u << current->lane);
        block_current();
    }
    ACQUIRE(order->barrier[turn]);
}

void sleep_in(Op op, const void* post, Site site) {
    current->op = op, current->post = post, current->site = site;
    warps[current->warp].runnable &= ~(1u << current->lane);
    block_current();
}
void wake(const Lane& lane) { blocks[lane.block].warps[lane.warp].runnable |= 1u << lane.lane; }
unsigned living() {
    unsigned all = 0;
    for (unsigned b = 0; b < n_blocks; b++) all += blocks[b].live;
    return all;
}
void order_release(void* at) {
    (void)at;
    UNDER_TSAN(__tsan_release(at);)
}
void order_acquire(void* at) {
    (void)at;
    UNDER_TSAN(__tsan_acquire(at);)
}

void begin_copy(const Copy& copy) { current->copies.push_back(copy); }
void commit_copies() {
    current->groups.push_back(std::move(current->copies));
    current->copies.clear();
}
bool next_copy(size_t most, Copy* copy) {
    auto& groups = current->groups;
    while (groups.size() > most && groups.front().empty()) groups.erase(groups.begin());
    if (groups.size() <= most) return false;
    *copy = groups.front().front();
    groups.front().erase(groups.front().begin());
    return true;
}

unsigned char* dynamic_smem() { return smem; }

void* static_smem(const void* key, size_t bytes) {
    for (const StaticArray& a : static_arrays) {
        if (a.key == key) return static_area + a.offset;
    }
    const size_t offset = static_top;
    if (offset + bytes > STATIC_BYTES) fail("more than 48 KiB of static shared memory");
    static_arrays.push_back({ key, offset, bytes });
    static_top = (offset + bytes + SMEM_GUARD + 127) / 128 * 128;
    return static_area + offset;
}

bool is_shared(const void* p, size_t bytes) {
    const unsigned char* const a = static_cast<const unsigned char*>(p);
    return (a >= smem && a + bytes <= smem + dynamic_bytes) || (a >= static_area && a + bytes <= static_area + static_top);
}

bool is_global(const void* p, size_t bytes) { return is_allocated(p, bytes); }

[[noreturn, gnu::noinline]] static void illegal_access(const void* p, size_t bytes, bool write, const char* beside, void* code_address) {
    const std::string where = in_arena(p) ? " " + describe_address(p) : "";
    code = CUDA_ILLEGAL_ADDRESS;
    fail("illegal %s of %zu bytes %s%s%s", write ? "write" : "read", bytes, beside, where.c_str(), line_of(code_address).c_str());
}

// Called before each access of a kernel: what is right returns soon.
void check_access(const void* p, size_t bytes, bool write, void* code_address) {
    const unsigned char* const at = static_cast<const unsigned char*>(p);
    if (in_arena(p)) {
        if (!is_allocated(p, bytes)) illegal_access(p, bytes, write, "at", code_address);
    } else if (size_t(at - smem) < DYNAMIC_BYTES + SMEM_GUARD) {
        if (at + bytes > smem + dynamic_bytes) illegal_access(p, bytes, write, "behind its dynamic shared memory", code_address);
        if (write) ordinary_store(size_t(at - smem), bytes);
    } else if (size_t(at - static_area) < STATIC_BYTES + SMEM_GUARD) {
        const size_t offset = size_t(at - static_area);
        for (const StaticArray& a : static_arrays) {
            if (offset >= a.offset && offset + bytes <= a.offset + a.bytes) return;
        }
        illegal_access(p, bytes, write, "behind its array in static shared memory", code_address);
    } // else a local variable, or what faults by itself
}

template <class T> void mma(const Mma* const lane[32]) {
    float a[16][16], b[16][8], d[16][8];
    for (unsigned l = 0; l < 32; l++) {
        const unsigned g = l / 4, t = l % 4 * 2;
        for (unsigned i = 0; i < 4; i++) { // pairs at (g, t), (g+8, t), (g, t+8), (g+8, t+8)
            const float2 pair = unpack<T>(lane[l]->a[i]);
            const unsigned row = g + i % 2 * 8, column = t + i / 2 * 8;
            a[row][column] = pair.x, a[row][column + 1] = pair.y;
            d[g + i / 2 * 8][t + i % 2] = lane[l]->d[i];
        }
        for (unsigned i = 0; i < 2; i++) {
            const float2 pair = unpack<T>(lane[l]->b[i]);
            b[t + i * 8][g] = pair.x, b[t + i * 8 + 1][g] = pair.y;
        }
    }
    for (unsigned m = 0; m < 16; m++)
        for (unsigned k = 0; k < 16; k++)
            for (unsigned n = 0; n < 8; n++) d[m][n] += a[m][k] * b[k][n];
    for (unsigned l = 0; l < 32; l++) {
        for (unsigned i = 0; i < 4; i++) lane[l]->d[i] = d[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2];
    }
}
template void mma<bf16>(const Mma* const lane[32]);
template void mma<f16>(const Mma* const lane[32]);
} // namespace emu

using namespace emu;

extern "C" const char* emu_message() { return message.c_str(); }

extern "C" int emu_launch(const char* name, Dim grid, Dim block_size, Dim cluster, unsigned smem_bytes, void** args, uint64_t seed) {
    static std::mutex one_at_a_time;
    const std::lock_guard<std::mutex> lock(one_at_a_time);
    const size_t threads = size_t(block_size.x) * block_size.y * block_size.z;
    const size_t all_blocks = size_t(grid.x) * grid.y * grid.z;
    kernel = find_kernel(name);
    if (!kernel) return refuse(CUDA_NOT_FOUND, std::string("no kernel is called ") + name);
    if (threads == 0 || threads > MAX_THREADS || block_size.z > 64) return refuse(CUDA_INVALID_VALUE, std::string(name) + ": a block has 1 to 1024 threads");
    if (all_blocks == 0 || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535) return refuse(CUDA_INVALID_VALUE, std::string(name) + ": a grid has 1 to 2^31 - 1, 65535, 65535 blocks");
    n_blocks = cluster.x * cluster.y * cluster.z;
    if (n_blocks > MAX_BLOCKS_HERE || n_blocks * threads > MAX_THREADS) return refuse(CUDA_NOT_SUPPORTED, std::string(name) + ": a cluster of more than 1024 threads is not emulated");
    if (smem_bytes > DYNAMIC_BYTES) return refuse(CUDA_INVALID_VALUE, std::string(name) + ": more than 227 KiB of shared memory");
    kernel_args = args;
    grid_dim = grid, block_dim = block_size;
    n_threads = unsigned(threads), n_warps = unsigned(threads + 31) / 32;
    dynamic_bytes = smem_bytes;
    static_arrays.clear();
    static_top = 0;
    random_order = seed != 0;
    random_state = (seed + 1) * 0x9E3779B97F4A7C15ull | 1;
    warp_by_warp = (draw() >> 40 & 1) != 0;
    const Dim clusters = { grid.x / cluster.x, grid.y / cluster.y, grid.z / cluster.z };
    const size_t all = all_blocks / n_blocks;
    std::vector<unsigned> sequence(all);
    for (size_t i = 0; i < all; i++) sequence[i] = unsigned(i);
    if (random_order) {
        for (size_t i = all - 1; i > 0; i--) std::swap(sequence[i], sequence[draw() % (i + 1)]);
    }
    UNDER_TSAN(main_fiber = __tsan_get_current_fiber();)
    catch_faults();
    code = CUDA_SUCCESS;
    message.clear();
    if (sigsetjmp(escape, 1) == 0) {
        inside = 1;
        UNDER_TSAN(leave_out_the_middle(sequence);)
        for (const unsigned i : sequence) {
            const Dim at = { i % clusters.x, i / clusters.x % clusters.y, i / clusters.x / clusters.y };
            run_cluster({ at.x * cluster.x, at.y * cluster.y, at.z * cluster.z }, cluster);
        }
        current = nullptr;
        const std::string spoilt = spoilt_guard();
        if (!spoilt.empty()) {
            code = CUDA_ILLEGAL_ADDRESS;
            fail("%s", spoilt.c_str());
        }
        inside = 0;
    } else if (code == CUDA_SUCCESS) {
        code = CUDA_LAUNCH_FAILED;
    }
    current = nullptr;
    release_faults();
    ACQUIRE(order_ended);
    return code;
}
