// libnccl.so.2 of the emulated devices: the part of NCCL's interface (2.14 and newer) that the engine calls, between
// threads and between processes. A test double of an external library; it never ships.
//
//   L2P_EMU_NCCL_VERSION  what ncclGetVersion tells (22705)
//
// Kinder than NCCL in one thing: ranks that start different sums hang, as there, but ncclCommGetAsyncError says so. As
// there, no rank is told that another is gone, what is aborted leaves garbage, a communicator that does not block queues
// its kernels some time after ncclGroupEnd, and graphs keep communicators from being left.
//
// Ranks meet in a file that the id names; each has another one for what it adds to a sum.
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace {
enum Result { Success = 0, SystemError = 2, InvalidArgument = 4, InvalidUsage = 5, InProgress = 7 };
enum { CUDA_SUCCESS = 0, CUDA_LAUNCH_FAILED = 719, NOT_YET = -1 };
constexpr int FLOAT32 = 7, SUM = 0;
constexpr size_t MOST_RANKS = 64;
constexpr unsigned char POISON = 0xff;

struct UniqueId { char bytes[128]; };
struct Config { size_t size; unsigned magic, version; int blocking; };

// ---- The emulated driver ----

void* driver_function(const char* name) {
    static void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    return library ? dlsym(library, name) : nullptr;
}
template <class F> F driver(const char* name) { return reinterpret_cast<F>(driver_function(name)); }

// ---- Errors ----

std::mutex access_to_text;
std::string last_error;
Result refuse(Result code, std::string why) {
    const std::lock_guard<std::mutex> lock(access_to_text);
    last_error = std::move(why);
    return code;
}

// ---- A communicator ----

// Shared by all ranks; zeros at first.
struct Meeting {
    std::atomic<int> device[MOST_RANKS]; // of the rank that is here, plus 1
    std::atomic<int> same_files;         // how many have opened the files of all
    std::atomic<int> left[MOST_RANKS];
    std::atomic<uint64_t> arrived[MOST_RANKS], done[MOST_RANKS]; // sums
};

struct Buffer { float* at; size_t n; };

struct Comm {
    int rank, size;
    bool blocking;
    std::string path;
    Meeting* meeting = nullptr;
    std::vector<int> files; // of each rank, once all are here
    int own = -1;
    uint64_t sums = 0; // that this rank has begun
    const void* busy = nullptr;
    std::atomic<bool> aborted{ false }, leaving{ false };
    std::atomic<int> held{ 0 }; // by queues and graphs
    std::atomic<int> error{ Success };
    // Groups that are not queued yet, and how often their state was polled since.
    struct Late { void* stream; std::vector<Buffer> buffers; };
    std::vector<Late> late;
    int asked = 0;
    ~Comm() {
        if (files.empty()) { // not all came
            unlink(path_of(rank).c_str());
            unlink(path.c_str());
        }
        for (const int file : files) close(file);
        if (own >= 0) close(own);
        if (meeting) munmap(meeting, sizeof(Meeting));
    }
    std::string path_of(int r) const { return path + "-" + std::to_string(r); }
    template <class F> bool all(F f) const {
        for (int r = 0; r < size; r++) {
            if (!f(r)) return false;
        }
        return true;
    }
};
typedef std::shared_ptr<Comm> CommPtr;

bool write_all(int file, const void* from, size_t bytes, size_t at) { return pwrite(file, from, bytes, off_t(at)) == ssize_t(bytes); }
bool read_all(int file, void* to, size_t bytes, size_t at) { return pread(file, to, bytes, off_t(at)) == ssize_t(bytes); }

// Whether all are here; opens their files then, and the last to do so removes the names.
Result meet(Comm& c) {
    if (!c.files.empty()) return Success;
    if (!c.all([&](int r) { return c.meeting->device[r] != 0; })) return InProgress;
    for (int a = 0; a < c.size; a++) {
        for (int b = 0; b < a; b++) {
            if (c.meeting->device[a] != c.meeting->device[b]) continue;
            const std::string device = std::to_string(c.meeting->device[a] - 1);
            return refuse(InvalidUsage, "Duplicate GPU detected : rank " + std::to_string(a) + " and rank " + std::to_string(b) + " both on CUDA device " + device);
        }
    }
    std::vector<int> files;
    for (int r = 0; r < c.size; r++) files.push_back(open(c.path_of(r).c_str(), O_RDONLY | O_CLOEXEC));
    c.files = files;
    if (!c.all([&](int r) { return files[size_t(r)] >= 0; })) return refuse(SystemError, "a file of another rank cannot be opened");
    if (++c.meeting->same_files == c.size) {
        unlink(c.path.c_str());
        for (int r = 0; r < c.size; r++) unlink(c.path_of(r).c_str());
    }
    return Success;
}

// ---- A group of sums in a stream ----

struct Sums {
    CommPtr comm;
    std::vector<Buffer> buffers;
    uint64_t number = 0; // of this run, once it has begun
    bool arrived = false;
    Sums(CommPtr c, std::vector<Buffer> b) : comm(std::move(c)), buffers(std::move(b)) { comm->held++; }
    ~Sums() { comm->held--; }
};

// The file of a rank: how many buffers, their lengths, then the numbers.
size_t header_bytes(const Sums& s) { return (1 + s.buffers.size()) * sizeof(uint64_t); }

bool publish(const Sums& s) {
    std::vector<uint64_t> header = { s.buffers.size() };
    for (const Buffer& b : s.buffers) header.push_back(b.n);
    size_t at = header_bytes(s);
    if (!write_all(s.comm->own, header.data(), at, 0)) return false;
    for (const Buffer& b : s.buffers) {
        if (!write_all(s.comm->own, b.at, b.n * sizeof(float), at)) return false;
        at += b.n * sizeof(float);
    }
    return true;
}

// What differs between this rank's group and another's, or nothing.
std::string difference(const Sums& s, int rank) {
    const int file = s.comm->files[size_t(rank)];
    const auto told = [&](const std::string& here, const std::string& there) {
        return "sum " + std::to_string(s.number) + ": rank " + std::to_string(s.comm->rank) + " has " + here + ", rank " + std::to_string(rank) + " has " + there;
    };
    uint64_t count = 0;
    read_all(file, &count, sizeof count, 0);
    if (count != s.buffers.size()) return told(std::to_string(s.buffers.size()) + " buffers", std::to_string(count));
    for (size_t i = 0; i < s.buffers.size(); i++) {
        uint64_t n = 0;
        read_all(file, &n, sizeof n, (1 + i) * sizeof n);
        if (n != s.buffers[i].n) return told(std::to_string(s.buffers[i].n) + " numbers in buffer " + std::to_string(i), std::to_string(n));
    }
    return "";
}

// In the order of ranks.
bool add_up(const Sums& s) {
    size_t at = header_bytes(s);
    for (const Buffer& b : s.buffers) {
        std::vector<float> sum(b.n), one(b.n);
        for (int r = 0; r < s.comm->size; r++) {
            if (!read_all(s.comm->files[size_t(r)], one.data(), b.n * sizeof(float), at)) return false;
            for (size_t i = 0; i < b.n; i++) sum[i] = r == 0 ? one[i] : sum[i] + one[i];
        }
        memcpy(b.at, sum.data(), b.n * sizeof(float));
        at += b.n * sizeof(float);
    }
    return true;
}

int end(Sums& s, int code) {
    s.comm->busy = nullptr;
    s.arrived = false;
    return code;
}

// A step of a kernel: called until it is done.
int poll(void* data) {
    Sums& s = *static_cast<Sums*>(data);
    Comm& c = *s.comm;
    if (c.aborted) {
        for (const Buffer& b : s.buffers) memset(b.at, POISON, b.n * sizeof(float));
        return end(s, CUDA_SUCCESS);
    }
    if (c.error != Success || (c.busy && c.busy != &s)) return NOT_YET;
    Meeting& m = *c.meeting;
    if (!s.arrived) {
        if (!c.busy) s.number = ++c.sums;
        c.busy = &s;
        // The last sum's numbers are not read any more.
        if (!c.all([&](int r) { return m.done[r] + 1 >= s.number; })) return NOT_YET;
        if (!publish(s)) return end(s, CUDA_LAUNCH_FAILED);
        s.arrived = true;
        m.arrived[c.rank] = s.number;
    }
    if (!c.all([&](int r) { return m.arrived[r] >= s.number; })) return NOT_YET;
    for (int r = 0; r < c.size; r++) {
        const std::string why = difference(s, r);
        if (why.empty()) continue;
        c.error = refuse(InvalidUsage, why);
        return NOT_YET; // for ever
    }
    if (!add_up(s)) return end(s, CUDA_LAUNCH_FAILED);
    m.done[c.rank] = s.number;
    return end(s, CUDA_SUCCESS);
}

// Whether another rank is at this sum already, or this one is to be left.
int urgent(void* data) {
    const Sums& s = *static_cast<Sums*>(data);
    const Comm& c = *s.comm;
    const uint64_t number = c.busy == &s ? s.number : c.sums + 1;
    return c.leaving || !c.all([&](int r) { return r == c.rank || c.meeting->arrived[r] < number; });
}

void release(void* data) { delete static_cast<Sums*>(data); }

Result queue(const CommPtr& c, Comm::Late late) {
    const auto is_memory_of = driver<int (*)(void*, const void*, size_t)>("emu_is_memory_of");
    for (const Buffer& b : late.buffers) {
        if (is_memory_of(late.stream, b.at, b.n * sizeof(float)) == CUDA_SUCCESS) continue;
        return refuse(InvalidArgument, "a buffer is no memory of the stream's device");
    }
    const auto submit = driver<int (*)(void*, int (*)(void*), int (*)(void*), void (*)(void*), void*)>("emu_submit");
    const int code = submit(late.stream, poll, urgent, release, new Sums(c, std::move(late.buffers)));
    return code == CUDA_SUCCESS ? Success : refuse(SystemError, "the stream refuses a kernel: error " + std::to_string(code));
}

// ---- Groups of the calling thread ----

struct Call { CommPtr* comm; void* stream; Buffer buffer; };
thread_local int depth = 0;
thread_local std::vector<Call> calls;

Result end_group() {
    std::vector<Call> all = std::move(calls);
    calls.clear();
    Result result = Success;
    while (!all.empty()) { // the calls of one communicator
        CommPtr* const of = all.front().comm;
        Comm::Late late = { all.front().stream, {} };
        std::vector<Call> others;
        for (const Call& call : all) {
            if (call.comm != of) others.push_back(call);
            else if (call.buffer.n > 0) late.buffers.push_back(call.buffer);
        }
        all = std::move(others);
        Comm& c = **of;
        if (c.blocking) {
            if (const Result r = queue(*of, std::move(late))) return r;
        } else {
            c.late.push_back(std::move(late));
            c.asked = 0;
            result = InProgress;
        }
    }
    return result;
}
} // namespace

#define API(type) extern "C" __attribute__((visibility("default"))) type

API(int) ncclGetVersion(int* version) {
    const char* const text = getenv("L2P_EMU_NCCL_VERSION");
    return *version = text ? atoi(text) : 22705, Success;
}
API(int) ncclGetUniqueId(UniqueId* id) {
    *id = {};
    const int file = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    const bool good = file >= 0 && read(file, id->bytes, 16) == 16;
    close(file);
    return good ? Success : refuse(SystemError, "no random numbers");
}
API(const char*) ncclGetErrorString(int code) {
    switch (code) {
        case Success: return "no error";
        case SystemError: return "unhandled system error (run with NCCL_DEBUG=INFO for details)";
        case InvalidArgument: return "invalid argument (run with NCCL_DEBUG=WARN for details)";
        case InvalidUsage: return "invalid usage (run with NCCL_DEBUG=WARN for details)";
        case InProgress: return "NCCL operation in progress";
        default: return "unknown result code";
    }
}
API(const char*) ncclGetLastError(CommPtr*) {
    static thread_local std::string text;
    const std::lock_guard<std::mutex> lock(access_to_text);
    text = last_error;
    return text.c_str();
}
API(int) ncclCommInitRankConfig(CommPtr** comm, int size, UniqueId id, int rank, Config* config) {
    *comm = nullptr;
    if (config && (config->magic != 0xcafebeef || config->size < sizeof *config)) return refuse(InvalidArgument, "a configuration that is none");
    if (size < 1 || size_t(size) > MOST_RANKS || rank < 0 || rank >= size) return refuse(InvalidArgument, "no such rank");
    int device = 0;
    const auto get_device = driver<int (*)(int*)>("cuCtxGetDevice");
    if (!get_device || get_device(&device) != CUDA_SUCCESS) return refuse(InvalidUsage, "no current device");
    const auto c = std::make_shared<Comm>();
    c->rank = rank, c->size = size;
    c->blocking = !config || config->blocking != 0;
    const char* const folder = getenv("TMPDIR");
    c->path = std::string(folder && *folder ? folder : "/tmp") + "/l2p-emu-nccl-";
    for (int i = 0; i < 16; i++) {
        char two[3];
        snprintf(two, sizeof two, "%02x", static_cast<unsigned char>(id.bytes[i]));
        c->path += two;
    }
    c->own = open(c->path_of(rank).c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (c->own < 0) return refuse(InvalidUsage, "rank " + std::to_string(rank) + " is there already");
    const int file = open(c->path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0 || ftruncate(file, sizeof(Meeting)) != 0) return refuse(SystemError, "no file to meet in");
    void* const start = mmap(nullptr, sizeof(Meeting), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (start == MAP_FAILED) return refuse(SystemError, "no memory to meet in");
    c->meeting = static_cast<Meeting*>(start);
    c->meeting->device[rank] = device + 1;
    *comm = new CommPtr(c);
    if (!c->blocking) return InProgress;
    for (;;) {
        const Result met = meet(*c);
        if (met != InProgress) return met;
        usleep(200);
    }
}
API(int) ncclCommInitRank(CommPtr** comm, int size, UniqueId id, int rank) { return ncclCommInitRankConfig(comm, size, id, rank, nullptr); }
API(int) ncclGroupStart() { return depth++, Success; }
API(int) ncclGroupEnd() {
    if (depth == 0) return refuse(InvalidUsage, "ncclGroupEnd without ncclGroupStart");
    return --depth > 0 ? Success : end_group();
}
API(int) ncclAllReduce(const void* from, void* to, size_t n, int type, int op, CommPtr* comm, void* stream) {
    Comm& c = **comm;
    if (c.files.empty() || !c.late.empty()) return refuse(InvalidUsage, "the communicator is not ready: something is in progress");
    if (c.error != Success) return c.error;
    if (from != to || type != FLOAT32 || op != SUM) return refuse(InvalidArgument, "only sums of floats, in place, are emulated");
    calls.push_back({ comm, stream, { static_cast<float*>(to), n } });
    return depth > 0 ? Success : end_group();
}
API(int) ncclCommGetAsyncError(CommPtr* comm, int* error) {
    Comm& c = **comm;
    if (c.error == Success && c.files.empty()) {
        const Result met = meet(c);
        if (met != InProgress) c.error = met;
        return *error = met, Success;
    }
    // The second who asks finds it queued.
    if (!c.late.empty() && ++c.asked < 2) return *error = InProgress, Success;
    while (!c.late.empty()) {
        const Result queued = queue(*comm, std::move(c.late.front()));
        c.late.erase(c.late.begin());
        if (queued != Success) c.error = queued;
    }
    if (c.error == Success && c.leaving) {
        if (c.held == 0) c.meeting->left[c.rank] = 1;
        const bool all = c.all([&](int r) { return c.meeting->left[r] != 0; });
        return *error = all ? Success : InProgress, Success;
    }
    return *error = c.error, Success;
}
API(int) ncclCommFinalize(CommPtr* comm) {
    (*comm)->leaving = true;
    int error;
    do {
        ncclCommGetAsyncError(comm, &error);
        if ((*comm)->blocking) usleep(200);
    } while (error == InProgress && (*comm)->blocking);
    return error;
}
API(int) ncclCommDestroy(CommPtr* comm) { return delete comm, Success; }
API(int) ncclCommAbort(CommPtr* comm) {
    (*comm)->aborted = true;
    delete comm;
    return Success;
}
API(int) ncclCommCount(const CommPtr* comm, int* count) { return *count = (*comm)->size, Success; }
