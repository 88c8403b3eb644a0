/* patience.c - how long the engine is silent while it answers. */
#include "node/answer/patience.h"

#include "base/clock.h"
#include "node/answer/document.h"
#include "node/answer/sender.h"
#include "node/node_request.h"

#define TELL_US        US_PER_S         /* between signs of progress of an assembled answer */
#define LAST_US        (50 * US_PER_MS) /* for what may follow the end that an engine has said */
#define MORE_US        (2 * US_PER_S)   /* ... or for that end, after the last content */
#define CALL_US        (10 * US_PER_S)  /* ... which may be a tool call that the engine holds */
#define STATE_LOADABLE DROVER__V1__MODEL_STATE__MODEL_STATE_LOADABLE
#define STATE_LOADING  DROVER__V1__MODEL_STATE__MODEL_STATE_LOADING

/* The engine's state, as it concerns the request. */
static struct silence_signs signs_of(const struct node_request *req)
{
    const struct engine_facts *facts = engine_facts(req->agent->engine);
    const struct engine_model *model = facts_model(facts, req->model);

    return (struct silence_signs){
        .work = facts->progress,
        .read_mono_us = facts->progress_mono_us,
        .counts = facts->progress_counts,
        .gone_mono_us = facts->gone_mono_us,
        .loading = facts->loading || (model != NULL && (model->state == STATE_LOADABLE ||
                                                        model->state == STATE_LOADING)),
    };
}

/* Passes the engine's life on to the caller, where no content does that is about to be sent.
 * False: the call has ended. */
static bool tell_life(struct node_request *req)
{
    uint32_t signs = silence_signs_of_life(&req->silence);
    bool loading = silence_is_loading(&req->silence);
    bool content = req->out_content && (buf_size(&req->out) != 0 || req->tell_progress);

    if (content || (signs == req->signs_told && loading == req->loading))
        return true;
    req->signs_told = signs;
    node_request_note_loading(req, loading);
    return node_request_accepted(req, 0);
}

/* When the answer is over if nothing follows, as the engine has said its end, and only its
 * connection stays open; UINT64_MAX: it has not. */
static uint64_t over_mono_us(const struct node_request *req)
{
    if (req->paused)
        return UINT64_MAX; /* its last bytes are perhaps there, and not read */
    switch (req->mode) {
    case ANSWER_EVENTS:
    case ANSWER_ASSEMBLED:
        if (req->meter.done)
            return req->done_us + LAST_US;
        if (!req->meter.finished)
            return UINT64_MAX;
        return req->heard_us + (req->meter.calls_follow ? CALL_US : MORE_US);
    case ANSWER_BEGUN:
    case ANSWER_PLAIN:
    case ANSWER_ERROR:
        if (!document_is_whole(req))
            return UINT64_MAX;
        /* {"status":"loading"}, say, may stand before the answer. */
        return req->heard_us + (document_is_last(req) ? LAST_US : MORE_US);
    case ANSWER_UNKNOWN:
        break;
    }
    return UINT64_MAX;
}

/* Is the answer whole if the verdict on its silence is its end?  One that went on after a
 * reason may go on again, so only a limit ends it, and not amid an event. */
static bool ends_by(struct node_request *req, enum silence_verdict verdict)
{
    struct sse_event rest;

    return req->meter.finished || (verdict != SILENCE_LEFT && meter_may_end(&req->meter) &&
                                   sse_end(&req->sse, &rest) == 0);
}

static void on_silence(struct timer *timer);

static void look(struct node_request *req)
{
    const struct silence_signs signs = signs_of(req);
    uint64_t now = loop_now_us(req->agent->loop), over = over_mono_us(req);
    struct silence_result result;

    if (req->run == NULL)
        return; /* it is over; the answer is held */
    result = silence_look(&req->silence, &signs, now);
    if (now >= over || (result.verdict != SILENCE_BORNE && ends_by(req, result.verdict))) {
        bool torn =
            (req->mode == ANSWER_EVENTS || req->mode == ANSWER_ASSEMBLED) && !req->meter.done;

        meter_settle(&req->meter);
        node_request_drop_run(req);
        req->answer_over(req, torn ? ENGINE_END_LOST : ENGINE_END_OK, "");
        return;
    }
    if (result.verdict == SILENCE_LEFT) {
        engine_doubt(req->agent->engine);
        node_request_drop_run(req);
        req->answer_over(req, ENGINE_END_LOST, "the engine has ended");
        return;
    }
    if (result.verdict != SILENCE_BORNE) {
        node_request_fail(
            req, result.verdict == SILENCE_STALLED ? GRPC_DEADLINE_EXCEEDED : GRPC_ABORTED,
            "the engine gave no %s for %u ms", silence_missing(&req->silence),
            (unsigned)(result.limit_us / US_PER_MS));
        return;
    }
    if (result.again_us > over - now)
        result.again_us = over - now;
    if (tell_life(req))
        timer_start(req->agent->loop, &req->silence_timer, result.again_us, on_silence);
}

static void on_silence(struct timer *timer)
{
    look(CONTAINER_OF(timer, struct node_request, silence_timer));
}

void patience_start(struct node_request *req, patience_over_cb over)
{
    const struct silence_limits limits = {
        .load_us = req->load_ms * US_PER_MS,
        .first_us = req->first_token_ms * US_PER_MS,
        .idle_us = req->idle_token_ms * US_PER_MS,
    };
    const struct silence_signs signs = signs_of(req);

    silence_start(&req->silence, &limits, &signs, req->started_us);
    req->signs_told = 0;
    req->answer_over = over;
    look(req);
}

void patience_content(struct node_request *req, uint32_t tokens)
{
    uint64_t now = loop_now_us(req->agent->loop);
    bool first = req->content_us == 0;

    req->out_content = true;
    req->out_tokens += tokens;
    req->agent->output_tokens += tokens;
    silence_heard(&req->silence, true, now);
    if (req->streaming && slot_limit_content(&req->agent->limit, &req->slot_run, now))
        agent_resize(req->agent);
    if (first) {
        req->content_us = now;
        timer_start(req->agent->loop, &req->silence_timer, 0, on_silence);
    }
    /* An answer that is put together here shows nothing until it is whole: an empty chunk shows
     * the caller when the first token came, and then that the engine makes progress. */
    if (req->mode == ANSWER_ASSEMBLED && (first || now - req->reported_us >= TELL_US)) {
        req->reported_us = now;
        req->tell_progress = true;
        sender_flush_soon(req);
    }
}

void patience_ends(struct node_request *req)
{
    timer_start(req->agent->loop, &req->silence_timer, LAST_US, on_silence);
}
