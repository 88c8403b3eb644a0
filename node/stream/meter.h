/*
 * meter.h - reads along in a streamed answer: which events carry model output, how many
 * tokens, how it ended.
 *
 * One meter a request.  It looks at each event once, without building a tree, and knows the
 * stream formats of every operation that streams (chat completions, completions, responses,
 * Anthropic messages, Ollama chat and generate).  Role-only, empty and progress events are not
 * content: the coordinator may still go to another node after them.  Pure.
 */
#ifndef DROVER_NODE_STREAM_METER_H
#define DROVER_NODE_STREAM_METER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "base/text/buf.h"
#include "base/text/json.h"
#include "node/body/output.h"
#include "node/stream/choices.h"

struct sse_event;

struct stream_meter {
    int operation;     /* enum drover.v1.Operation */
    bool want_text;    /* collect `text` */
    bool plain;        /* all output so far is plain text of one choice */
    bool finished;     /* a finish_reason, a terminal event or [DONE] was seen */
    bool done;         /* and it was the very last event of the format */
    bool reasoned;     /* some finish reason was seen, or what stands for one */
    bool calls_follow; /* ... and it was that of a tool call: another call may follow */
    bool aside;        /* there is output that no event counts as content */
    char reason[OUTPUT_REASON_BYTES]; /* as the engine spells it; "" = none yet */
    struct choices choices;           /* of chat completions and completions */
    uint32_t tokens;                  /* content events seen */
    char response_id[96];             /* "" until seen */
    char item_id[96];                 /* of the message of a response; "" until seen */
    uint64_t created;                 /* 0 until seen */
    uint32_t next_sequence; /* of responses: what follows the last event's sequence_number, or
                               the number of events where the engine gives none */
    struct token_usage usage;
    struct buf text; /* owned: plain text since the caller last emptied it */
};

enum seen_kind {
    SEEN_NOTHING = 0, /* no output in it: a role, a ping, progress, a block that opens */
    SEEN_CONTENT,     /* carries model output */
    SEEN_DONE,        /* the format's last event ([DONE], message_stop) */
    SEEN_ERROR,       /* the engine reports a failure */
    SEEN_GARBAGE,     /* not JSON: no engine means that */
};

struct seen {
    enum seen_kind kind;
    bool ends;              /* a choice has its finish reason in it */
    bool usage_only;        /* usage and no choice: exists only because usage was asked for */
    bool ignored;           /* after the end, and no part of an answer: not for the client */
    struct json_value root; /* the event's JSON, type JSON_NONE when it has none.  llama-server
                               begins several prompts with `null`, and an array is a list of
                               events */
    uint32_t error_status;  /* SEEN_ERROR: an HTTP status found in it, or 0 */
    char error_text[256];   /* SEEN_ERROR: the engine's words */
};

void meter_init(struct stream_meter *o, int operation, bool want_text);
void meter_finish(struct stream_meter *o);

/* Looks at the next event.  `seen` borrows from the event. */
void meter_event(struct stream_meter *o, const struct sse_event *event, struct seen *seen);

/* Has each choice had its reason, some of them before their last output? */
MUST_CHECK bool meter_may_end(const struct stream_meter *o);

/* No more output follows: `finished`, if it may end. */
void meter_settle(struct stream_meter *o);

/* Has a stream that ended given nothing at all: no output, and no reason for that? */
MUST_CHECK bool meter_is_empty(const struct stream_meter *o);

/* Is an answer that is whole without any output? */
MUST_CHECK bool meter_is_blank(const struct stream_meter *o);

/* Adds up the usage of an answer whose choices had one each.  True: `usage` is a sum. */
bool meter_sum_usage(struct stream_meter *o);

/* Is it a reason to end?  Some engines write "" or "null" where others write null. */
MUST_CHECK bool meter_reason_ends(const struct json_value *reason);

/* Does this operation have a streamed form at all, and is it NDJSON? */
MUST_CHECK bool meter_streams(int operation);
MUST_CHECK bool meter_is_ndjson(int operation);

/* Reads usage, id and whether there is output from a whole JSON answer (not streamed). */
void meter_answer(struct stream_meter *o, const struct json_value *root);

#endif
