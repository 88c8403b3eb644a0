/*
 * sim_engine.c - the simulated engine on an event loop.
 *
 * Only this file joins the pure parts (sim_request, sim_model, sim_reply) to the loop.  One
 * timer drives the model for all runs; each token that the model gives becomes bytes in one
 * scratch buffer and goes to the run's owner at once, in the timer's callback.
 */
#include "sim/sim_engine.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/io/loop.h"
#include "base/log.h"
#include "base/text/buf.h"
#include "sim/model/sim_model.h"
#include "sim/model/sim_text.h"
#include "sim/sim_answer.h"
#include "sim/sim_reply.h"
#include "sim/sim_request.h"

/* Scratch memory above this is given back after a large request. */
#define SCRATCH_KEEP_BYTES (1024u * 1024)

/* The process dies so long after it should, that output given before is on its way. */
#define DIE_DELAY_US 1000

struct loadable {
    struct sim_engine *sim;
    enum sim_model_state state;
    struct timer timer; /* running iff LOADING */
};

struct sim_engine {
    struct loop *loop; /* borrowed: outlives the engine */
    struct sim_spec spec;
    struct sim_model model;
    struct timer step_timer;
    struct timer load_timer; /* running while the engine itself loads */
    struct timer die_timer;  /* a fault ends the process */
    bool loading;
    struct loadable loadables[SIM_MAX_MODELS]; /* beside spec.models */
    LIST_HEAD(, sim_run) runs;                 /* all */
    uint32_t waiting;                          /* runs whose model is not loaded */
    uint32_t requests;                         /* that used the model, ever; wraps */
    uint64_t idents;
    struct sim_status totals; /* the counts of prompts and answers that ended; no more of it */
    struct buf scratch;       /* one request or the events of one token */
};

struct sim_run {
    struct sim_engine *sim;
    struct sim_events events;
    void *data;
    struct sim_seq seq;
    struct sim_request request;
    struct sim_ident ident;
    struct sim_reply reply;
    struct deferred deferred; /* answers at once what needs no model */
    LIST_ENTRY(sim_run) link; /* in sim->runs */
    uint32_t given;           /* output tokens */
    uint64_t first_token_mono_us;
    unsigned status;
    const char *content_type; /* static */
    bool waiting;             /* for its model to load; not in the step model yet */
    bool hung;                /* by a fault */
    bool head_sent;
};

/* ---- the life of a run ----------------------------------------------------------------- */

static void on_step(struct timer *timer);

/* Wakes the model: there is something new for it. */
static void kick(struct sim_engine *sim)
{
    /* A step under way ends when it ends; at a fixed rate admission is at once. */
    if (!timer_running(&sim->step_timer) || sim->spec.model.rate > 0)
        timer_start(sim->loop, &sim->step_timer, 0, on_step);
}

static void leave_model(struct sim_run *run)
{
    struct sim_engine *sim = run->sim;
    uint64_t now = loop_now_us(sim->loop);

    if (run->waiting) {
        run->waiting = false;
        sim->waiting--;
    }
    if (run->given != 0 && run->seq.phase != SIM_IDLE) {
        sim->totals.output_tokens += run->given;
        if (now > run->first_token_mono_us)
            sim->totals.output_us += now - run->first_token_mono_us;
    }
    sim_model_remove(&sim->model, &run->seq);
    if (sim->model.queue.first != NULL)
        kick(sim);
}

/* Every run dies here. */
static void free_run(struct sim_run *run)
{
    struct sim_engine *sim = run->sim;

    leave_model(run);
    loop_undefer(sim->loop, &run->deferred);
    LIST_REMOVE(run, link);
    sim_reply_finish(&run->reply);
    sim_request_finish(&run->request);
    free(run);
}

void sim_run_cancel(struct sim_run *run)
{
    free_run(run);
}

void sim_run_pause(struct sim_run *run, bool paused)
{
    if (run->hung)
        return;
    run->seq.stalled = paused;
    if (!paused)
        kick(run->sim);
}

/* Gives bytes to the owner, the head before the first of them. */
static void send_bytes(struct sim_run *run, const struct buf *bytes)
{
    if (!run->head_sent) {
        run->head_sent = true;
        run->events.on_head(run->data, run->status, run->content_type);
    }
    if (buf_size(bytes) != 0)
        run->events.on_body(run->data, buf_head(bytes), buf_size(bytes));
}

/* The run is over, and its slot free before the owner learns of it. */
static void end_run(struct sim_run *run, enum sim_end end)
{
    struct sim_events events = run->events;
    void *data = run->data;

    free_run(run);
    events.on_end(data, end);
}

/* The last bytes of an answer. */
static void send_last(struct sim_run *run, const struct buf *bytes)
{
    if (bytes->failed) {
        end_run(run, SIM_END_RESET);
        return;
    }
    send_bytes(run, bytes);
    end_run(run, SIM_END_OK);
}

/* ---- faults ---------------------------------------------------------------------------- */

static void answer_error(struct sim_run *run, unsigned status, const char *type,
                         const char *message)
{
    struct buf *out = &run->sim->scratch;

    run->status = status;
    run->content_type = "application/json; charset=utf-8";
    buf_reset(out);
    sim_error_body(out, run->request.operation, status, type, NULL, message);
    send_last(run, out);
}

static void stream_error(struct sim_run *run)
{
    struct buf *out = &run->sim->scratch;

    buf_reset(out);
    sim_reply_error(&run->reply, out, "a simulated failure of the engine");
    send_last(run, out);
}

static struct sim_outcome outcome_of(const struct sim_run *run)
{
    uint64_t now = loop_now_us(run->sim->loop), first = run->first_token_mono_us;

    return (struct sim_outcome){
        .cached_tokens = run->seq.cached_tokens,
        .output_tokens = run->given,
        .prompt_us = first > run->seq.admitted_mono_us ? first - run->seq.admitted_mono_us : 0,
        .output_us = now > first ? now - first : 0,
    };
}

/* An answer that stops in the middle, though HTTP thinks it whole. */
static void truncate_answer(struct sim_run *run)
{
    struct sim_outcome outcome = outcome_of(run);
    struct buf *out = &run->sim->scratch;

    buf_reset(out);
    if (run->request.want == SIM_WANT_VECTORS) {
        buf_add(out, buf_head(&run->request.body), buf_size(&run->request.body) / 2);
    } else if (!run->request.stream) {
        sim_reply_whole(&run->reply, out, &outcome);
        out->len = out->off + buf_size(out) / 2;
    }
    send_last(run, out);
}

static void give_garbage(struct sim_run *run)
{
    static const char NOISE[] = "\x16\x03\x01 this is no answer {{{ ]]\n\n";
    struct buf *out = &run->sim->scratch;

    if (run->request.stream && !run->head_sent) {
        end_run(run, SIM_END_GARBAGE);
        return;
    }
    buf_reset(out);
    buf_str(out, NOISE);
    send_last(run, out);
}

static void on_die(struct timer *timer)
{
    (void)timer;
    _exit(1);
}

/* Lets the run's fault happen.  Returns false when the run gives no token now. */
static bool cause_fault(struct sim_run *run)
{
    enum sim_fault_kind kind = run->request.fault.kind;

    log_info("event=sim_fault kind=%s after_tokens=%u", sim_fault_name(kind), run->given);
    run->request.fault.kind = SIM_FAULT_NONE;
    switch (kind) {
    case SIM_FAULT_NONE:
        return true;
    case SIM_FAULT_DIE:
        timer_start(run->sim->loop, &run->sim->die_timer, DIE_DELAY_US, on_die);
        run->hung = true;
        run->seq.stalled = true;
        return false;
    case SIM_FAULT_HANG:
        run->hung = true;
        run->seq.stalled = true;
        return false;
    case SIM_FAULT_SLOW:
        run->seq.stride = run->request.fault.factor;
        return true;
    case SIM_FAULT_GARBAGE:
        give_garbage(run);
        return false;
    case SIM_FAULT_5XX:
    case SIM_FAULT_ERROR_FIRST:
        if (run->request.stream && (run->head_sent || kind == SIM_FAULT_ERROR_FIRST))
            stream_error(run);
        else
            answer_error(run, 500, "server_error", "a simulated failure of the engine");
        return false;
    case SIM_FAULT_TRUNCATE:
        truncate_answer(run);
        return false;
    case SIM_FAULT_RESET:
        end_run(run, SIM_END_RESET);
        return false;
    }
    assert(false && "fault outside the enum");
    return true;
}

static bool fault_due(const struct sim_run *run)
{
    return run->request.fault.kind != SIM_FAULT_NONE &&
           run->given == run->request.fault.after_tokens;
}

/* ---- tokens ---------------------------------------------------------------------------- */

static void answer_whole(struct sim_run *run)
{
    struct sim_outcome outcome = outcome_of(run);

    buf_reset(&run->sim->scratch);
    sim_reply_whole(&run->reply, &run->sim->scratch, &outcome);
    send_last(run, &run->sim->scratch);
}

/* One token of a stream, with what goes before the first and after the last. */
static void stream_token(struct sim_run *run, bool token)
{
    struct buf *out = &run->sim->scratch;
    uint32_t wanted = run->request.output_tokens;
    struct sim_outcome outcome;

    buf_reset(out);
    if (run->given == 0)
        sim_reply_open(&run->reply, out, run->seq.cached_tokens);
    if (token)
        sim_reply_token(&run->reply, out, run->given++);
    if (run->given < wanted) {
        if (out->failed)
            end_run(run, SIM_END_RESET);
        else
            send_bytes(run, out);
        return;
    }
    if (fault_due(run)) {
        send_bytes(run, out);
        if (!cause_fault(run))
            return;
        buf_reset(out);
    }
    outcome = outcome_of(run);
    sim_reply_close(&run->reply, out, &outcome);
    send_last(run, out);
}

/* The prompt is done. */
static void count_prefill(struct sim_run *run)
{
    struct sim_status *totals = &run->sim->totals;
    uint64_t now = loop_now_us(run->sim->loop);

    run->first_token_mono_us = now;
    totals->prompt_tokens += run->seq.prompt_tokens - run->seq.cached_tokens;
    if (now > run->seq.admitted_mono_us)
        totals->prompt_us += now - run->seq.admitted_mono_us;
}

/* The model gives a token to this run: it has ended its prefill, or a step of its decode. */
static void on_token(struct sim_seq *seq, void *data)
{
    struct sim_run *run = CONTAINER_OF(seq, struct sim_run, seq);

    (void)data;
    if (run->first_token_mono_us == 0)
        count_prefill(run);
    if (fault_due(run) && !cause_fault(run))
        return;
    if (run->request.want == SIM_WANT_VECTORS) {
        send_last(run, &run->request.body);
        return;
    }
    if (run->request.stream) {
        stream_token(run, run->request.output_tokens != 0);
        return;
    }
    if (run->given < run->request.output_tokens)
        run->given++;
    if (run->given < run->request.output_tokens || (fault_due(run) && !cause_fault(run)))
        return;
    answer_whole(run);
}

static void on_step(struct timer *timer)
{
    struct sim_engine *sim = CONTAINER_OF(timer, struct sim_engine, step_timer);
    uint64_t due = sim_model_advance(&sim->model, clock_mono_us(), on_token, NULL);
    uint64_t now = clock_mono_us();

    buf_shrink(&sim->scratch, SCRATCH_KEEP_BYTES);
    if (due != 0)
        timer_start(sim->loop, &sim->step_timer, due > now ? due - now : 0, on_step);
}

/* ---- loading --------------------------------------------------------------------------- */

static void on_loaded(struct timer *timer)
{
    CONTAINER_OF(timer, struct sim_engine, load_timer)->loading = false;
}

static void on_model_loaded(struct timer *timer)
{
    struct loadable *loadable = CONTAINER_OF(timer, struct loadable, timer);
    struct sim_engine *sim = loadable->sim;
    struct sim_run *run;

    loadable->state = SIM_MODEL_LOADED;
    LIST_FOREACH(run, &sim->runs, link) {
        if (!run->waiting || run->request.model != &sim->spec.models[loadable - sim->loadables])
            continue;
        run->waiting = false;
        sim->waiting--;
        sim_model_add(&sim->model, &run->seq);
    }
    kick(sim);
}

/* Queues the run in the model, when its model is there. */
static void enter_model(struct sim_run *run)
{
    struct sim_engine *sim = run->sim;
    struct loadable *loadable = &sim->loadables[run->request.model - sim->spec.models];

    if (loadable->state == SIM_MODEL_LOADED) {
        sim_model_add(&sim->model, &run->seq);
        kick(sim);
        return;
    }
    run->waiting = true;
    sim->waiting++;
    if (loadable->state == SIM_MODEL_UNLOADED) {
        loadable->state = SIM_MODEL_LOADING;
        timer_start(sim->loop, &loadable->timer, run->request.model->load_ms * US_PER_MS,
                    on_model_loaded);
    }
}

/* ---- start ----------------------------------------------------------------------------- */

static void make_ident(struct sim_engine *sim, struct sim_ident *ident)
{
    uint64_t bits[3];
    uint64_t from[3] = {sim->spec.seed, XXH3_64bits(sim->spec.name, strlen(sim->spec.name)),
                        ++sim->idents};
    unsigned i;

    if (sim->spec.seed == 0)
        arc4random_buf(bits, sizeof(bits));
    else
        for (i = 0; i < ARRAY_LEN(bits); i++)
            bits[i] = XXH3_64bits_withSeed(from, sizeof(from), i);
    (void)snprintf(ident->random, sizeof(ident->random), "%016" PRIx64 "%016" PRIx64, bits[0],
                   bits[1]);
    (void)snprintf(ident->fingerprint, sizeof(ident->fingerprint), "sim-%08x",
                   (unsigned)(bits[2] & UINT32_MAX));
    ident->created_s = clock_wall_ms() / 1000;
}

/* Answers that need no model. */
static void on_immediate(struct deferred *deferred)
{
    struct sim_run *run = CONTAINER_OF(deferred, struct sim_run, deferred);

    send_last(run, &run->request.body);
}

static int begin_run(struct sim_run *run)
{
    struct sim_engine *sim = run->sim;
    struct sim_request *request = &run->request;
    int rc;

    run->status = request->status;
    run->content_type = "application/json; charset=utf-8";
    if (request->want == SIM_WANT_ERROR || request->want == SIM_WANT_FACTS) {
        loop_defer(sim->loop, &run->deferred, on_immediate);
        return 0;
    }
    sim->requests++;
    if (request->fault.kind == SIM_FAULT_NONE && sim->requests == sim->spec.fault_at)
        request->fault = sim->spec.fault;
    if (request->want == SIM_WANT_TEXT || request->want == SIM_WANT_TOOL) {
        rc = sim_reply_init(&run->reply, request, &run->ident);
        if (rc != 0)
            return rc;
        run->content_type = sim_reply_content_type(&run->reply);
    }
    run->seq.prompt_tokens = request->prompt_tokens;
    run->seq.blocks = request->blocks;
    run->seq.n_blocks = request->n_blocks;
    enter_model(run);
    return 0;
}

int sim_run_start(struct sim_run **out, struct sim_engine *sim, const struct sim_input *input,
                  const struct sim_events *events, void *data)
{
    struct sim_run *run = calloc(1, sizeof(*run));
    int rc;

    *out = NULL;
    if (run == NULL)
        return DRV_ENOMEM;
    run->sim = sim;
    run->events = *events;
    run->data = data;
    LIST_INSERT_HEAD(&sim->runs, run, link);
    make_ident(sim, &run->ident);
    rc = sim_request_read(&run->request, &sim->spec, input, &run->ident, &sim->scratch);
    if (rc == 0 && sim->loading) {
        run->request.want = SIM_WANT_ERROR;
        run->request.status = 503;
        buf_reset(&run->request.body);
        sim_error_body(&run->request.body, run->request.operation, 503, "unavailable_error",
                       NULL, "Loading model");
        rc = run->request.body.failed ? DRV_ENOMEM : 0;
    }
    if (rc == 0)
        rc = begin_run(run);
    if (rc != 0) {
        free_run(run);
        return rc;
    }
    *out = run;
    return 0;
}

/* ---- its facts about itself ------------------------------------------------------------ */

const struct sim_spec *sim_engine_spec(const struct sim_engine *sim)
{
    return &sim->spec;
}

struct sim_status sim_engine_status(const struct sim_engine *sim)
{
    struct sim_status status = sim->totals;

    status.loading = sim->loading;
    status.running = sim->model.running;
    status.queued = sim->model.queued + sim->waiting;
    status.progress = sim->model.progress;
    return status;
}

enum sim_model_state sim_engine_model_state(const struct sim_engine *sim, uint32_t index)
{
    return sim->loadables[index].state;
}

/* ---- life ------------------------------------------------------------------------------ */

void sim_engine_destroy(struct sim_engine *sim)
{
    uint32_t i;

    if (sim == NULL)
        return;
    while (!LIST_EMPTY(&sim->runs))
        free_run(LIST_FIRST(&sim->runs));
    timer_stop(sim->loop, &sim->step_timer);
    timer_stop(sim->loop, &sim->load_timer);
    timer_stop(sim->loop, &sim->die_timer);
    for (i = 0; i < sim->spec.n_models; i++)
        timer_stop(sim->loop, &sim->loadables[i].timer);
    sim_model_finish(&sim->model);
    buf_finish(&sim->scratch);
    free(sim);
}

int sim_engine_create(struct sim_engine **out, struct loop *loop, const char *spec,
                      struct error *err)
{
    struct sim_engine *sim = calloc(1, sizeof(*sim));
    uint32_t i;
    int rc;

    *out = NULL;
    if (sim == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    rc = sim_spec_parse(&sim->spec, spec, err);
    if (rc == 0) {
        rc = sim_model_init(&sim->model, &sim->spec.model);
        if (rc != 0)
            (void)error_set(err, rc, "out of memory");
    }
    if (rc != 0) {
        free(sim);
        return error_wrap(err, rc, "engine");
    }
    sim->loop = loop;
    for (i = 0; i < sim->spec.n_models; i++) {
        sim->loadables[i].sim = sim;
        sim->loadables[i].state =
            sim->spec.models[i].load_ms != 0 ? SIM_MODEL_UNLOADED : SIM_MODEL_LOADED;
    }
    if (sim->spec.load_ms != 0) {
        sim->loading = true;
        timer_start(loop, &sim->load_timer, sim->spec.load_ms * US_PER_MS, on_loaded);
    }
    *out = sim;
    return 0;
}
