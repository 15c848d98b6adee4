#include "queue.h"

#include "cuda_emu.h"

#include <time.h>

#include <algorithm>

namespace emu {
namespace {
uint64_t seed, state;
std::vector<WorkPtr> pending; // in the order of submission
std::set<Capture*> captures;

bool ready(const WorkPtr& work) {
    return std::all_of(work->after.begin(), work->after.end(), [](const WorkPtr& w) { return w->done; });
}

// False if it has to be called again.
bool run(WorkPtr work) {
    Context& context = *work->context;
    // After an error a context does nothing any more.
    if (context.error == 0) {
        const int code = work->action();
        if (code == NOT_YET) return false;
        context.error = code;
        if (code != 0) context.message = emu_message();
    }
    pending.erase(std::find(pending.begin(), pending.end(), work));
    work->done = true;
    work->action = nullptr;
    work->urgent = nullptr;
    work->after.clear(); // or a stream would keep its whole past
    return true;
}

// The work and all that it comes after, as far as they are not done.
std::set<Work*> all_before(const WorkPtr& work) {
    std::set<Work*> wanted;
    std::vector<Work*> open = { work.get() };
    while (!open.empty()) {
        Work* const w = open.back();
        open.pop_back();
        if (w->done || !wanted.insert(w).second) continue;
        for (const WorkPtr& before : w->after) open.push_back(before.get());
    }
    return wanted;
}

// Runs those of them that can, in the order of submission. False if none could.
bool run_those(const std::set<Work*>& wanted) {
    bool any = false;
    for (const WorkPtr& w : std::vector<WorkPtr>(pending)) {
        if (wanted.count(w.get()) && !w->done && ready(w)) any = run(w) || any;
    }
    return any;
}

void add_all(std::vector<size_t>& to, const std::vector<size_t>& from) {
    for (const size_t node : from) {
        if (std::find(to.begin(), to.end(), node) == to.end()) to.push_back(node);
    }
}

WorkPtr enqueue(Stream* stream, Action action, std::vector<WorkPtr> after, std::function<bool()> urgent = nullptr) {
    const auto add = [&](const WorkPtr& w) {
        if (w && !w->done) after.push_back(w);
    };
    add(stream->last);
    Context* const context = stream->context;
    if (stream == &context->legacy) {
        for (Stream* other : context->streams) {
            if (other->blocking) add(other->last);
        }
    } else if (stream->blocking) {
        add(context->legacy.last);
    }
    stream->last = std::make_shared<Work>(Work{ std::move(action), std::move(urgent), std::move(after), context });
    pending.push_back(stream->last);
    return stream->last;
}

int nothing() { return CUDA_SUCCESS; }
} // namespace

void set_seed(uint64_t s) {
    seed = s;
    state = (s + 1) * 0x9E3779B97F4A7C15ull | 1;
}

uint64_t draw_seed() {
    if (seed == 0) return 0;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

double now_ms() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return double(t.tv_sec) * 1e3 + double(t.tv_nsec) * 1e-6;
}

int submit(Stream* stream, Action action, std::function<bool()> urgent) {
    if (stream->capture) {
        Capture& c = *stream->capture;
        if (c.invalid) return CUDA_CAPTURE_INVALIDATED;
        c.graph.nodes.push_back({ std::move(action), std::move(urgent), stream->tails });
        stream->tails = { c.graph.nodes.size() - 1 };
        return CUDA_SUCCESS;
    }
    if (stream == &stream->context->legacy) {
        for (Stream* other : stream->context->streams) {
            if (!other->blocking || !other->capture) continue;
            other->capture->invalid = true;
            return CUDA_CAPTURE_IMPLICIT;
        }
    }
    enqueue(stream, std::move(action), {}, std::move(urgent));
    return CUDA_SUCCESS;
}

int record_event(Event* event, Stream* stream) {
    if (stream->capture) {
        if (stream->capture->invalid) return CUDA_CAPTURE_INVALIDATED;
        event->capture = stream->capture;
        event->nodes = stream->tails;
        return CUDA_SUCCESS;
    }
    event->capture = nullptr;
    event->reached = std::make_shared<double>(0);
    const auto reached = event->reached;
    event->work = enqueue(stream, [reached] {
        *reached = now_ms();
        return CUDA_SUCCESS;
    }, {});
    return CUDA_SUCCESS;
}

int wait_event(Stream* stream, Event* event) {
    if (event->capture) {
        const CapturePtr& c = event->capture;
        if (c->ended) return CUDA_CAPTURED_EVENT;
        if (stream->capture && stream->capture != c) {
            stream->capture->invalid = c->invalid = true;
            return CUDA_CAPTURE_MERGE;
        }
        if (!stream->capture) { // joins: what it did before is not part of the capture
            stream->capture = c;
            stream->tails.clear();
            c->streams.insert(stream);
        }
        add_all(stream->tails, event->nodes);
        return CUDA_SUCCESS;
    }
    if (!event->work) return CUDA_SUCCESS;
    if (stream->capture) {
        stream->capture->invalid = true;
        return CUDA_CAPTURE_ISOLATION;
    }
    if (!event->work->done) enqueue(stream, nothing, { event->work });
    return CUDA_SUCCESS;
}

int begin_capture(Stream* stream, Mode mode) {
    if (stream->capture || stream == &stream->context->legacy) return CUDA_CAPTURE_UNSUPPORTED;
    stream->capture = std::make_shared<Capture>();
    stream->capture->origin = stream;
    stream->capture->streams = { stream };
    stream->capture->mode = mode;
    stream->capture->thread = std::this_thread::get_id();
    stream->tails.clear();
    captures.insert(stream->capture.get());
    return CUDA_SUCCESS;
}

int end_capture(Stream* stream, Graph** graph) {
    *graph = nullptr;
    const CapturePtr c = stream->capture;
    if (!c) return CUDA_INVALID_VALUE;
    if (c->origin != stream) return CUDA_CAPTURE_UNMATCHED;
    if (c->mode != Mode::Relaxed && c->thread != std::this_thread::get_id()) return CUDA_CAPTURE_WRONG_THREAD;
    // Everything must come before the end of the stream that began.
    std::vector<bool> joined(c->graph.nodes.size());
    std::vector<size_t> open = stream->tails;
    while (!open.empty()) {
        const size_t node = open.back();
        open.pop_back();
        if (joined[node]) continue;
        joined[node] = true;
        const auto& after = c->graph.nodes[node].after;
        open.insert(open.end(), after.begin(), after.end());
    }
    const bool all = std::find(joined.begin(), joined.end(), false) == joined.end();
    c->ended = true;
    captures.erase(c.get());
    for (Stream* s : c->streams) {
        s->capture = nullptr;
        s->tails.clear();
    }
    if (c->invalid) return CUDA_CAPTURE_INVALIDATED;
    if (!all) return CUDA_CAPTURE_UNJOINED;
    *graph = new Graph(std::move(c->graph)); // events that were recorded in it keep nothing alive
    return CUDA_SUCCESS;
}

int launch_graph(GraphExec* exec, Stream* stream) {
    if (stream->capture) return CUDA_NOT_SUPPORTED;
    // A begin and an end hold the graph in its place in the stream; between them its own order rules.
    const WorkPtr begin = enqueue(stream, nothing, exec->last ? std::vector<WorkPtr>{ exec->last } : std::vector<WorkPtr>{});
    std::vector<WorkPtr> works;
    for (const Node& node : exec->graph.nodes) {
        std::vector<WorkPtr> after = { begin };
        for (const size_t n : node.after) after.push_back(works[n]);
        works.push_back(std::make_shared<Work>(Work{ node.action, node.urgent, std::move(after), stream->context }));
        pending.push_back(works.back());
    }
    exec->last = enqueue(stream, nothing, std::move(works));
    return CUDA_SUCCESS;
}

int check_no_capture() {
    for (Capture* c : captures) {
        if (c->mode == Mode::Relaxed) continue;
        if (c->mode == Mode::ThreadLocal && c->thread != std::this_thread::get_id()) continue;
        c->invalid = true;
        return CUDA_CAPTURE_UNSUPPORTED;
    }
    return CUDA_SUCCESS;
}

bool run_one() {
    std::vector<WorkPtr> can;
    for (const WorkPtr& w : pending) {
        if (ready(w)) can.push_back(w);
    }
    while (!can.empty()) {
        const size_t drawn = draw_seed() % can.size();
        if (run(can[drawn])) return true;
        can.erase(can.begin() + std::ptrdiff_t(drawn));
    }
    return false;
}

void run_until(WorkPtr work) {
    if (!work) return;
    while (!work->done) {
        const bool got_on = seed != 0 ? run_one() : run_those(all_before(work));
        if (!got_on) let_others();
    }
}

void run_urgent() {
    for (const WorkPtr& w : std::vector<WorkPtr>(pending)) {
        if (!w->done && w->urgent && w->urgent()) run_those(all_before(w));
    }
}

void run_all(Context* context) {
    for (;;) {
        const auto of_context = [&](const WorkPtr& w) { return w->context == context; };
        const auto found = std::find_if(pending.begin(), pending.end(), of_context);
        if (found == pending.end()) return;
        run_until(*found);
    }
}
} // namespace emu
