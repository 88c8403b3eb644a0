/*
 * kinds.h - the kinds that configuration, wire and decisions name.
 *
 * They stand apart from config.h so that policy/ needs no configuration.  Policies are stored
 * in the scoreboard by value: append, never renumber.
 */
#ifndef DROVER_BASE_KINDS_H
#define DROVER_BASE_KINDS_H

#include <stdbool.h>
#include <stdint.h>

/* The rule that selects a node; policy/route/balance.h describes each. */
enum policy_kind {
    POLICY_FASTEST = 0,
    POLICY_LEAST_CONN = 1,
    POLICY_ROUND_ROBIN = 2,
    POLICY_RANDOM2 = 3,
    POLICY_PREFIX_HASH = 4,
};
const char *policy_name(enum policy_kind kind);

/* The order of waiting requests. */
enum request_priority {
    REQUEST_PRIORITY_DEFAULT = 0,
    REQUEST_PRIORITY_INTERACTIVE,
    REQUEST_PRIORITY_BULK,
};

/*
 * The cost of an operation to a node, and so what may be learned from it.  proto/operations.h
 * says which operation is of which class.  Speeds and holding times of two classes have nothing
 * in common: they are kept apart.
 */
enum op_class {
    OP_CLASS_GENERATION = 0, /* prefill, then tokens one by one; holds a slot */
    OP_CLASS_EMBEDDING, /* embeddings, rerank, sound, images, and what is answered as a whole:
                           no token by token; holds a slot */
    OP_CLASS_QUESTION,  /* answered without a run of the model; holds no slot */
};

/* Classes with speeds of their own: 0 .. OP_CLASSES_LEARNED - 1. */
#define OP_CLASSES_LEARNED 2

/* An inference holds a slot, waits for one, and teaches the router.  A question does none. */
static inline bool op_class_holds_slot(enum op_class op_class)
{
    return op_class != OP_CLASS_QUESTION;
}

/*
 * The abilities that a request may need and a node may lack, by their numbers on the wire
 * (drover.v1.Ability).
 * A lack bars a node from a request; it is no failure.
 */
enum ability {
    ABILITY_NONE = 0,
    ABILITY_CONTEXT,       /* tokens of prompt and output */
    ABILITY_VISION,        /* images in the prompt */
    ABILITY_AUDIO,         /* sound in the prompt */
    ABILITY_TOOLS,         /* tool calls */
    ABILITY_GRAMMAR,       /* output bound by a grammar or a JSON schema */
    ABILITY_OPERATION,     /* the operation of the request */
    ABILITY_MESSAGE_BYTES, /* the size of the request */
    ABILITY_ACCESS,        /* credentials for the model */
    ABILITY_STATE,         /* the response or conversation that the request names */
    ABILITY_MODEL,         /* the model, which its engine lists and does not find */
    ABILITIES
};
/* "vision"; NULL = not known here. */
const char *ability_name(unsigned ability);

/* An engine's kind, a model's state, by their numbers on the wire (drover.v1.EngineKind,
 * drover.v1.ModelState): "llama-server", "ready"; "unknown" for those of a newer version. */
const char *engine_kind_name(uint32_t kind);
const char *model_state_name(uint32_t state);
/* An operation (drover.v1.Operation): "chat_completions"; NULL = not known here. */
const char *operation_name(int operation);

#define ABILITY_BIT(ability) (UINT32_C(1) << (ability))
/* Those that an engine can say it has or lacks. */
#define ABILITIES_SAID                                                                       \
    (ABILITY_BIT(ABILITY_VISION) | ABILITY_BIT(ABILITY_AUDIO) | ABILITY_BIT(ABILITY_TOOLS) | \
     ABILITY_BIT(ABILITY_GRAMMAR))

#endif
