/*
 * facts.h - the facts about an engine: its kind, its load and its models.
 *
 * The readers (node/engine/kinds/) fill them from the engine's answers; the agent reads them.
 * Pure.
 */
#ifndef DROVER_NODE_ENGINE_FACTS_H
#define DROVER_NODE_ENGINE_FACTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/model_about.h"

#define ENGINE_MODEL_BYTES  256
#define ENGINE_MAX_MODELS   1024
#define ENGINE_MAX_ALIASES  16
#define ENGINE_OFFER_MODELS 64 /* that an operator can name */

struct engine_model {
    char id[ENGINE_MODEL_BYTES];
    uint32_t state;           /* enum drover.v1.ModelState */
    uint32_t max_context;     /* tokens; 0 = unknown */
    uint32_t largest_context; /* that it can be loaded with; 0 = unknown */
    uint32_t offered;    /* bit (1 << drover.v1.Operation): it has them, or may have them */
    uint32_t operations; /* of these, without what the engine turned out not to have */
    uint32_t load_ms;
    uint32_t alias_of; /* 0, or 1 + index of the model this names again */
    bool in_memory;    /* of a router: it has a place there, be it still loading or asleep */
    /* As the engine says: bit (1 << enum ability), VISION to GRAMMAR; in neither: not known. */
    uint32_t has, lacks;
    /* Identifies the vocabulary, where the engine takes and gives token ids: equal
     * numbers, equal meaning of the ids.  0 = it does not. */
    uint64_t vocabulary;
    struct model_about about;
};

/* The engine's identity and state; a background look keeps them fresh. */
struct engine_facts {
    uint32_t kind; /* enum drover.v1.EngineKind */
    char version[64];
    uint32_t models_at_once;   /* of a router: how many it keeps in memory; 0 = any */
    uint32_t models_in_memory; /* of a router */
    uint64_t models_mono_us;   /* when they were asked for */
    bool router;               /* a llama-server that runs one server for each model */
    bool reachable;            /* it answered the last look */
    bool loading;              /* reachable, but its model still loads */
    bool speaks_ollama;        /* not Ollama, but with its API */
    char
        detail[256]; /* why it is not usable, or what it lacks, and what to do; "" = all well */
    uint32_t slots;  /* 0 = unknown */
    uint32_t running, queued; /* as the engine says; valid iff has_load */
    bool has_load;
    uint64_t full_mono_us;   /* the beginning of the last full look; 0 = never */
    uint64_t looked_mono_us; /* when `running` was asked for; 0 = never */
    float kv_used_fraction;  /* -1 = unknown */
    uint64_t preemptions;    /* since its start, where it reports them; else 0 */
    float prefill_tokens_per_s, decode_tokens_per_s; /* 0 = unknown */
    uint64_t progress;         /* changes with prefill and decode, where the engine shows it */
    uint64_t progress_mono_us; /* when `progress` was asked for; 0 = it does not show it */
    bool progress_counts;  /* every token changes it: where it stands still nothing is done */
    bool slots_show_work;  /* /slots counts the tokens that are done; they make `progress` */
    uint64_t slots_work;   /* the sum that it showed last */
    uint64_t gone_mono_us; /* a look then showed that the llama-server of the look before has
                              ended, though its connections may stay; 0 = none did */
    uint64_t tasks;        /* 1 + the number of the last task in its slots; 0 = none had any */
    uint64_t tasks_before; /* that fewer followed, if that may be another process; 0 = not so */
    uint32_t tasks_below;  /* how often in a row fewer were seen than `tasks_before` */
    uint32_t tasks_fell;   /* how often, since it was last away or loading */
    uint32_t left_out;     /* names that are too long or too many for `models` */
    uint32_t models_count;
    struct engine_model models[ENGINE_MAX_MODELS]; /* last: facts_copy() copies what is used */
};

/* The operator's own list for the engine. */
struct engine_offer {
    const char *const *models; /* offer these and no others; listed by the engine or not */
    size_t models_count;       /* 0 = those that the engine lists */
    uint32_t operations;       /* bit (1 << drover.v1.Operation); 0 = as detected */
};

/* *to = *from, without the unused part of the table of models. */
void facts_copy(struct engine_facts *to, const struct engine_facts *from);

/* The model or alias of this name, or NULL. */
const struct engine_model *facts_model(const struct engine_facts *facts, const char *id);
struct engine_model *facts_find_model(struct engine_facts *facts, const char *id);

/* Likewise, or the one that Ollama takes the name for (base/model_name.h). */
struct engine_model *facts_named(struct engine_facts *facts, const char *id);

/* Empties the table of models. */
void facts_clear_models(struct engine_facts *facts);

/* Adds a READY model with these operations.  NULL: it is there already, has no name, or is left
 * out. */
struct engine_model *facts_add_model(struct engine_facts *facts, const char *id, uint32_t ops);

/* Adds another name of model number `of`, unless there is a model of that name.  A model has
 * ENGINE_MAX_ALIASES at most; more are left out. */
void facts_add_alias(struct engine_facts *facts, uint32_t of, const char *id);

/* Gives each model what an earlier table knew of it, and a list of names alone does not say;
 * with `states` also whether it is in memory. */
void facts_keep(struct engine_facts *facts, const struct engine_facts *old, bool states);

/* Makes the table what the operator offers, each model as the engine has it, if it does. */
void facts_offer(struct engine_facts *facts, const struct engine_offer *offer, uint32_t ops);

#endif
