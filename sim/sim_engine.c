/*
 * sim_engine.c - the built-in simulated engine, as a struct engine.
 *
 * What only this file does: it joins the pure parts (sim_request, sim_model, sim_reply) to the
 * loop.  One timer drives the model for all runs; each token that the model gives becomes bytes
 * in one scratch buffer and goes to the run's owner at once, in the timer's callback.
 *
 * A run whose owner has paused it holds its output back, and past a limit it also stops getting
 * tokens, though it keeps its slot: as a real engine does when its socket is full.
 *
 * A callback to the owner may cancel the run.  So every function that calls back returns
 * whether the run still lives, and nobody touches a run after a false.
 */
#include "sim/sim_engine.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/loop.h"
#include "proto/drover_common.pb-c.h"
#include "sim/model/sim_model.h"
#include "sim/model/sim_text.h"
#include "sim/sim_answer.h"
#include "sim/sim_reply.h"
#include "sim/sim_request.h"

/* Output that a paused run holds before it stops getting tokens. */
#define HELD_MAX_BYTES 65536

/* Scratch memory above this is given back after a large request. */
#define SCRATCH_KEEP_BYTES (1024u * 1024)

/* The process dies so long after it should, that output given before is on its way. */
#define DIE_DELAY_US 1000

enum load_state {
    LOAD_READY = 0,
    LOAD_ON_DEMAND, /* its first request loads it */
    LOAD_UNDER_WAY,
};

struct sim_engine;

struct loadable {
    struct sim_engine *sim;
    enum load_state state;
    struct timer timer; /* running iff UNDER_WAY */
};

struct sim_engine {
    struct engine super; /* first: struct engine * is struct sim_engine * */
    struct loop *loop;   /* borrowed: outlives the engine */
    struct sim_spec spec;
    struct sim_model model;
    struct timer step_timer;
    struct timer load_timer; /* running while the engine itself loads */
    struct timer die_timer;  /* a fault ends the process */
    bool loading;
    struct loadable loadables[ENGINE_MAX_MODELS]; /* beside spec.models */
    struct engine_run *runs;                      /* list of all */
    uint32_t waiting;                             /* runs whose model is not loaded */
    uint32_t requests;                            /* that used the model, ever; wraps */
    uint64_t idents;
    struct engine_facts facts;
    struct buf scratch; /* one request or the events of one token */
};

struct engine_run {
    struct sim_engine *sim;
    struct engine_events events;
    void *data;
    struct sim_seq seq;
    struct sim_request request;
    struct sim_ident ident;
    struct sim_reply reply;
    struct deferred deferred; /* answers at once, or gives out what was held */
    struct engine_run *prev, *next;
    uint32_t given; /* output tokens */
    uint64_t first_token_mono_us;
    struct buf held; /* output that waits for the owner */
    unsigned status;
    const char *content_type; /* static */
    bool waiting;             /* for its model to load; not in the step model yet */
    bool paused;              /* by its owner */
    bool hung;                /* by a fault */
    bool head_sent;
    bool ended; /* nothing more will be added; `end` and `why` go out after `held` */
    enum engine_end end;
    const char *why; /* static */
    bool in_call;    /* the owner is being called */
    bool gone;       /* cancelled inside that call */
};

static struct sim_engine *sim_of(struct engine *engine)
{
    return CONTAINER_OF(engine, struct sim_engine, super);
}

/* ---- the life of a run ----------------------------------------------------------------- */

static void on_step(struct timer *timer);

/* Wakes the model: there is something new for it. */
static void kick(struct sim_engine *sim)
{
    /* A step under way ends when it ends; at a fixed rate admission is at once. */
    if (!timer_running(&sim->step_timer) || sim->spec.model.rate > 0)
        timer_start(sim->loop, &sim->step_timer, 0, on_step);
}

static void leave_model(struct engine_run *run)
{
    struct sim_engine *sim = run->sim;

    if (run->waiting) {
        run->waiting = false;
        sim->waiting--;
    }
    sim_model_remove(&sim->model, &run->seq);
    if (sim->model.queue.first != NULL)
        kick(sim);
}

/* Takes the run out of everything, so that only its memory is left. */
static void detach(struct engine_run *run)
{
    struct sim_engine *sim = run->sim;

    leave_model(run);
    loop_undefer(sim->loop, &run->deferred);
    if (run->prev != NULL)
        run->prev->next = run->next;
    else
        sim->runs = run->next;
    if (run->next != NULL)
        run->next->prev = run->prev;
}

static void free_run(struct engine_run *run)
{
    buf_finish(&run->held);
    sim_reply_finish(&run->reply);
    sim_request_finish(&run->request);
    free(run);
}

static void cancel(struct engine_run *run)
{
    detach(run);
    if (run->in_call)
        run->gone = true; /* whoever called the owner frees it */
    else
        free_run(run);
}

/* Ends a call to the owner: does the run still live? */
static bool called(struct engine_run *run)
{
    run->in_call = false;
    if (!run->gone)
        return true;
    free_run(run);
    return false;
}

static bool send_head(struct engine_run *run)
{
    run->head_sent = true;
    run->in_call = true;
    run->events.on_head(run->data, run->status, run->content_type, NULL, 0);
    return called(run);
}

/* Gives bytes to the owner, or holds them while it is paused. */
static bool put(struct engine_run *run, const void *bytes, size_t n)
{
    if (!run->paused && !run->head_sent && !send_head(run))
        return false;
    if (run->paused || buf_size(&run->held) != 0) {
        buf_add(&run->held, bytes, n);
        if (buf_size(&run->held) > HELD_MAX_BYTES)
            run->seq.stalled = true;
        return true;
    }
    if (n == 0)
        return true;
    run->in_call = true;
    run->events.on_body(run->data, bytes, n);
    return called(run);
}

static void tell_end(struct engine_run *run)
{
    if (run->held.failed) {
        run->end = ENGINE_END_LOST;
        run->why = "out of memory";
    }
    detach(run);
    run->events.on_end(run->data, run->end, run->why);
    free_run(run);
}

/* The run is over; its slot is free now, the owner learns of it when it has all the output. */
static void end_run(struct engine_run *run, enum engine_end end, const char *why)
{
    leave_model(run);
    run->ended = true;
    run->end = end;
    run->why = why;
    if (!run->paused && buf_size(&run->held) == 0)
        tell_end(run);
}

static bool put_buf(struct engine_run *run, const struct buf *bytes)
{
    size_t n = buf_size(bytes);

    return put(run, n == 0 ? NULL : buf_head(bytes), n);
}

/* The last bytes of an answer. */
static void put_last(struct engine_run *run, const struct buf *bytes)
{
    leave_model(run);
    if (bytes->failed) {
        end_run(run, ENGINE_END_LOST, "out of memory");
        return;
    }
    if (put_buf(run, bytes))
        end_run(run, ENGINE_END_OK, "");
}

/* Gives out what was held while the owner was paused. */
static void on_flush(struct deferred *deferred)
{
    struct engine_run *run = CONTAINER_OF(deferred, struct engine_run, deferred);

    if (run->paused)
        return;
    if (!run->head_sent && (run->ended || buf_size(&run->held) != 0) &&
        run->end == ENGINE_END_OK && !send_head(run))
        return;
    if (run->paused)
        return;
    if (buf_size(&run->held) != 0) {
        run->in_call = true;
        run->events.on_body(run->data, buf_head(&run->held), buf_size(&run->held));
        if (!called(run))
            return;
        buf_consume(&run->held, buf_size(&run->held));
        buf_shrink(&run->held, 0);
    }
    if (run->ended && !run->paused) {
        tell_end(run);
    } else if (run->seq.stalled && !run->hung && !run->paused) {
        run->seq.stalled = false;
        kick(run->sim);
    }
}

static void pause_run(struct engine_run *run, bool paused)
{
    run->paused = paused;
    if (!paused)
        loop_defer(run->sim->loop, &run->deferred, on_flush);
}

/* ---- faults ---------------------------------------------------------------------------- */

static void answer_error(struct engine_run *run, unsigned status, const char *type,
                         const char *message)
{
    struct buf *out = &run->sim->scratch;

    run->status = status;
    run->content_type = "application/json; charset=utf-8";
    buf_reset(out);
    sim_error_body(out, run->request.operation, status, type, NULL, message);
    put_last(run, out);
}

static void stream_error(struct engine_run *run)
{
    struct buf *out = &run->sim->scratch;

    buf_reset(out);
    sim_reply_error(&run->reply, out, "a simulated failure of the engine");
    put_last(run, out);
}

static struct sim_outcome outcome_of(const struct engine_run *run)
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
static void truncate_answer(struct engine_run *run)
{
    struct sim_outcome outcome = outcome_of(run);
    struct buf *out = &run->sim->scratch;

    buf_reset(out);
    if (!run->request.stream) {
        sim_reply_whole(&run->reply, out, &outcome);
        out->len = out->off + buf_size(out) / 2;
    }
    put_last(run, out);
}

static void give_garbage(struct engine_run *run)
{
    static const char NOISE[] = "\x16\x03\x01 this is no answer {{{ ]]\n\n";
    struct buf *out = &run->sim->scratch;

    if (run->request.stream && !run->head_sent && buf_size(&run->held) == 0) {
        end_run(run, ENGINE_END_GARBAGE, "simulated garbage");
        return;
    }
    buf_reset(out);
    buf_str(out, NOISE);
    put_last(run, out);
}

static void on_die(struct timer *timer)
{
    (void)timer;
    _exit(1);
}

/* Lets the run's fault happen.  Returns false when the run gives no token now. */
static bool trip(struct engine_run *run)
{
    enum sim_fault_kind kind = run->request.fault.kind;
    bool begun = run->head_sent || buf_size(&run->held) != 0;

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
        if (run->request.stream && (begun || kind == SIM_FAULT_ERROR_FIRST))
            stream_error(run);
        else
            answer_error(run, 500, "server_error", "a simulated failure of the engine");
        return false;
    case SIM_FAULT_TRUNCATE:
        truncate_answer(run);
        return false;
    case SIM_FAULT_RESET:
        end_run(run, ENGINE_END_LOST, "simulated reset");
        return false;
    }
    assert(false && "fault outside the enum");
    return true;
}

static bool fault_due(const struct engine_run *run)
{
    return run->request.fault.kind != SIM_FAULT_NONE &&
           run->given == run->request.fault.after_tokens;
}

/* ---- tokens ---------------------------------------------------------------------------- */

static void answer_whole(struct engine_run *run)
{
    struct sim_outcome outcome = outcome_of(run);

    buf_reset(&run->sim->scratch);
    sim_reply_whole(&run->reply, &run->sim->scratch, &outcome);
    put_last(run, &run->sim->scratch);
}

/* One token of a stream, with what goes before the first and after the last. */
static void stream_token(struct engine_run *run, bool token)
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
            end_run(run, ENGINE_END_LOST, "out of memory");
        else
            (void)put_buf(run, out);
        return;
    }
    if (fault_due(run)) {
        if (!put_buf(run, out) || !trip(run))
            return;
        buf_reset(out);
    }
    outcome = outcome_of(run);
    sim_reply_close(&run->reply, out, &outcome);
    put_last(run, out);
}

/* The model gives a token to this run: it has ended its prefill, or a step of its decode. */
static void on_token(struct sim_seq *seq, void *data)
{
    struct engine_run *run = CONTAINER_OF(seq, struct engine_run, seq);

    (void)data;
    if (run->given == 0)
        run->first_token_mono_us = loop_now_us(run->sim->loop);
    if (fault_due(run) && !trip(run))
        return;
    if (run->request.want == SIM_WANT_VECTORS) {
        put_last(run, &run->request.body);
        return;
    }
    if (run->request.stream) {
        stream_token(run, run->request.output_tokens != 0);
        return;
    }
    if (run->given < run->request.output_tokens)
        run->given++;
    if (run->given < run->request.output_tokens || (fault_due(run) && !trip(run)))
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

static void tell_facts(struct sim_engine *sim)
{
    if (sim->super.on_facts != NULL)
        sim->super.on_facts(sim->super.on_facts_data);
}

static void on_loaded(struct timer *timer)
{
    struct sim_engine *sim = CONTAINER_OF(timer, struct sim_engine, load_timer);

    sim->loading = false;
    tell_facts(sim);
}

static void on_model_loaded(struct timer *timer)
{
    struct loadable *loadable = CONTAINER_OF(timer, struct loadable, timer);
    struct sim_engine *sim = loadable->sim;
    struct engine_run *run;

    loadable->state = LOAD_READY;
    for (run = sim->runs; run != NULL; run = run->next) {
        if (!run->waiting || run->request.model != &sim->spec.models[loadable - sim->loadables])
            continue;
        run->waiting = false;
        sim->waiting--;
        sim_model_add(&sim->model, &run->seq);
    }
    kick(sim);
    tell_facts(sim);
}

/* Queues the run in the model, when its model is there. */
static void enter_model(struct engine_run *run)
{
    struct sim_engine *sim = run->sim;
    struct loadable *loadable = &sim->loadables[run->request.model - sim->spec.models];

    if (loadable->state == LOAD_READY) {
        sim_model_add(&sim->model, &run->seq);
        kick(sim);
        return;
    }
    run->waiting = true;
    sim->waiting++;
    if (loadable->state == LOAD_ON_DEMAND) {
        loadable->state = LOAD_UNDER_WAY;
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
    struct engine_run *run = CONTAINER_OF(deferred, struct engine_run, deferred);

    put_last(run, &run->request.body);
}

static int begin(struct engine_run *run)
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

static int start(struct engine *engine, struct engine_run **out,
                 const struct engine_request *request, const struct engine_events *events,
                 void *data, struct error *err)
{
    struct sim_engine *sim = sim_of(engine);
    struct engine_run *run = calloc(1, sizeof(*run));
    int rc;

    *out = NULL;
    if (run == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    run->sim = sim;
    run->events = *events;
    run->data = data;
    make_ident(sim, &run->ident);
    rc = sim_request_read(&run->request, &sim->spec, request, &run->ident, &sim->scratch);
    if (rc == 0 && sim->loading) {
        run->request.want = SIM_WANT_ERROR;
        run->request.status = 503;
        buf_reset(&run->request.body);
        sim_error_body(&run->request.body, run->request.operation, 503, "unavailable_error",
                       NULL, "Loading model");
        rc = run->request.body.failed ? DRV_ENOMEM : 0;
    }
    if (rc == 0)
        rc = begin(run);
    if (rc != 0) {
        free_run(run);
        return error_set(err, rc, "out of memory");
    }
    run->next = sim->runs;
    if (run->next != NULL)
        run->next->prev = run;
    sim->runs = run;
    *out = run;
    return 0;
}

/* ---- facts ----------------------------------------------------------------------------- */

static const struct engine_facts *facts(struct engine *engine)
{
    struct sim_engine *sim = sim_of(engine);
    struct engine_facts *f = &sim->facts;
    uint32_t i;

    f->loading = sim->loading;
    (void)strlcpy(f->detail, sim->loading ? "loading" : "", sizeof(f->detail));
    f->running = sim->model.running;
    f->queued = sim->model.queued + sim->waiting;
    f->progress = sim->model.progress;
    for (i = 0; i < f->models_count; i++) {
        enum load_state state = sim->loadables[i].state;

        f->models[i].state =
            sim->loading || state == LOAD_UNDER_WAY
                ? DROVER__V1__MODEL_STATE__MODEL_STATE_LOADING
                : (state == LOAD_READY ? DROVER__V1__MODEL_STATE__MODEL_STATE_READY
                                       : DROVER__V1__MODEL_STATE__MODEL_STATE_LOADABLE);
    }
    return f;
}

/* The facts that never change. */
static void init_facts(struct sim_engine *sim)
{
    const struct sim_model_config *model = &sim->spec.model;
    struct engine_facts *f = &sim->facts;
    double step_us = model->base_us + model->slope_us;
    uint32_t i;

    f->kind = DROVER__V1__ENGINE_KIND__ENGINE_KIND_SIMULATED;
    (void)strlcpy(f->version, "simulated " DROVER_VERSION, sizeof(f->version));
    f->reachable = true;
    f->slots = model->slots;
    f->has_load = true;
    f->kv_used_fraction = -1;
    if (model->rate > 0) {
        f->decode_tokens_per_s = (float)model->rate;
    } else {
        f->prefill_tokens_per_s = (float)model->prefill_tokens_per_s;
        f->decode_tokens_per_s = step_us > 0 ? (float)(1e6 / step_us) : 0;
    }
    f->models_count = sim->spec.n_models;
    for (i = 0; i < sim->spec.n_models; i++) {
        const struct sim_spec_model *from = &sim->spec.models[i];

        (void)strlcpy(f->models[i].id, from->id, sizeof(f->models[i].id));
        f->models[i].max_context = from->context;
        f->models[i].operations = sim_operations(from);
        f->models[i].load_ms = from->load_ms;
        f->models[i].vocabulary = sim_text_ids();
    }
}

const struct sim_spec *sim_engine_spec(const struct engine *engine)
{
    return &CONTAINER_OF(engine, const struct sim_engine, super)->spec;
}

void sim_engine_set_name(struct engine *engine, const char *name)
{
    struct sim_spec *spec = &sim_of(engine)->spec;

    if (spec->name[0] == '\0')
        (void)strlcpy(spec->name, name, sizeof(spec->name));
}

/* ---- life ------------------------------------------------------------------------------ */

/* Runs that are left end without a word. */
static void destroy(struct engine *engine)
{
    struct sim_engine *sim;
    uint32_t i;

    if (engine == NULL)
        return;
    sim = sim_of(engine);
    while (sim->runs != NULL)
        cancel(sim->runs);
    timer_stop(sim->loop, &sim->step_timer);
    timer_stop(sim->loop, &sim->load_timer);
    timer_stop(sim->loop, &sim->die_timer);
    for (i = 0; i < sim->spec.n_models; i++)
        timer_stop(sim->loop, &sim->loadables[i].timer);
    sim_model_finish(&sim->model);
    buf_finish(&sim->scratch);
    free(sim);
}

int sim_engine_create(struct engine **out, struct loop *loop, const char *spec,
                      struct error *err)
{
    static const struct engine_ops OPS = {
        .start = start,
        .cancel = cancel,
        .pause = pause_run,
        .facts = facts,
        .destroy = destroy,
    };
    struct sim_engine *sim = calloc(1, sizeof(*sim));
    uint32_t i;
    int rc;

    *out = NULL;
    if (sim == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    rc = sim_spec_parse(&sim->spec, spec, err);
    if (rc != 0) {
        free(sim);
        return error_wrap(err, rc, "simulated engine");
    }
    rc = sim_model_init(&sim->model, &sim->spec.model);
    if (rc != 0) {
        free(sim);
        return error_set(err, rc, "simulated engine: out of memory");
    }
    sim->super.ops = &OPS;
    sim->loop = loop;
    for (i = 0; i < sim->spec.n_models; i++) {
        sim->loadables[i].sim = sim;
        sim->loadables[i].state =
            sim->spec.models[i].load_ms != 0 ? LOAD_ON_DEMAND : LOAD_READY;
    }
    init_facts(sim);
    if (sim->spec.load_ms != 0) {
        sim->loading = true;
        timer_start(loop, &sim->load_timer, sim->spec.load_ms * US_PER_MS, on_loaded);
    }
    *out = &sim->super;
    return 0;
}
