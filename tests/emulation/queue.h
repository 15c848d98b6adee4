// Streams, events and graphs of the emulated driver.
//
// Streams are lazy: work is queued and runs only when something waits for it. Seed 0 runs only what is
// waited for, in the order of submission; any other seed draws among all that streams and events allow.
// So a missing event, or a host that reads too early, shows as wrong data.
//
// Any number of threads may use the driver; one lock makes them take turns. Work that waits for something outside of
// this process's queues (nccl.cpp) says so instead of blocking, and the lock is given to others meanwhile.
#pragma once
#include "emu.h"

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace emu {

struct Context;
// Does one piece of work; a CUresult, or NOT_YET where it has to be called again later.
typedef std::function<int()> Action;
constexpr int NOT_YET = -1;

struct Work {
    Action action;
    std::function<bool()> urgent; // whether another process or rank waits for it; empty: never
    std::vector<std::shared_ptr<Work>> after; // empty once done
    Context* context;
    bool done = false;
};
typedef std::shared_ptr<Work> WorkPtr;

struct Node {
    Action action;
    std::function<bool()> urgent;
    std::vector<size_t> after;
};
struct Graph {
    std::vector<Node> nodes;
};
struct GraphExec {
    Graph graph;
    WorkPtr last; // launches of one graph do not overlap
};

enum class Mode { Global = 0, ThreadLocal = 1, Relaxed = 2 };
struct Stream;
struct Capture {
    Graph graph;
    Stream* origin;
    std::set<Stream*> streams; // all that joined
    Mode mode;
    std::thread::id thread;
    bool invalid = false, ended = false;
};
typedef std::shared_ptr<Capture> CapturePtr;

struct Stream {
    Context* context;
    bool blocking; // takes turns with the legacy default stream
    int priority;
    WorkPtr last;
    CapturePtr capture;
    std::vector<size_t> tails; // in a capture: the nodes that the next one comes after
    bool forgets = false;      // waits for no event (a test of tests)
};

struct Event {
    Context* context;
    bool timing;
    WorkPtr work;                     // the point in its stream; null before the first record
    std::shared_ptr<double> reached;  // milliseconds, once the work is done
    CapturePtr capture;               // recorded in a capture: its nodes then
    std::vector<size_t> nodes;
};

struct Context {
    int device;
    Stream legacy;
    std::set<Stream*> streams;
    std::set<int> peers;
    int error = 0; // of a kernel; stays until the context is reset
    std::string message; // what the emulation saw of it
};

void set_seed(uint64_t seed);
// A number of the schedule; 0 under seed 0.
uint64_t draw_seed();

// Queues work, or adds a node where the stream is being captured.
int submit(Stream* stream, Action action, std::function<bool()> urgent = nullptr);
int record_event(Event* event, Stream* stream);
int wait_event(Stream* stream, Event* event);
int begin_capture(Stream* stream, Mode mode);
// Null in `graph` on every error.
int end_capture(Stream* stream, Graph** graph);
int launch_graph(GraphExec* exec, Stream* stream);
// Ends with an error what a capture forbids to the calling thread (cudaStreamCaptureMode).
int check_no_capture();

// Runs work until `work` is done, or all of a context.
void run_until(WorkPtr work);
void run_all(Context* context);
// Runs one piece, so that a program that polls gets on. False if there was none that could run.
bool run_one();
// Runs what comes before urgent work, and that, as far as they get without waiting.
void run_urgent();
// Leaves the driver to other threads for a moment. Defined where its lock is.
void let_others();
double now_ms();
} // namespace emu
