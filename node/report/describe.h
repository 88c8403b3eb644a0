/* describe.h - an engine's facts as messages for a coordinator.  Pure. */
#ifndef DROVER_NODE_REPORT_DESCRIBE_H
#define DROVER_NODE_REPORT_DESCRIBE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "node/engine/engine.h"
#include "node/slot_limit.h"
#include "proto/drover_common.pb-c.h"

#define DESCRIBE_MAX_ALIASES    16
#define DESCRIBE_MAX_OPERATIONS 32
#define DESCRIBE_MAX_ABILITIES  8

/* Storage for one description; the messages point into it and into the facts. */
struct describe {
    Drover__V1__Capacity capacity;
    Drover__V1__Model *list[ENGINE_MAX_MODELS]; /* what goes into `models` fields */
    size_t count;
    Drover__V1__Model models[ENGINE_MAX_MODELS];
    Drover__V1__ModelAbout about[ENGINE_MAX_MODELS];
    char *aliases[ENGINE_MAX_MODELS][DESCRIBE_MAX_ALIASES];
    Drover__V1__Operation operations[ENGINE_MAX_MODELS][DESCRIBE_MAX_OPERATIONS];
    Drover__V1__Ability has[ENGINE_MAX_MODELS][DESCRIBE_MAX_ABILITIES];
    Drover__V1__Ability lacks[ENGINE_MAX_MODELS][DESCRIBE_MAX_ABILITIES];
};

/* Fills `d`'s models, which are good as long as `facts` does not change. */
void describe_models(struct describe *d, const struct engine_facts *facts);

/* The capacity of a node with these slots; `queue` is how many requests it keeps beyond them.
 */
void describe_capacity(Drover__V1__Capacity *out, const struct engine_facts *facts,
                       const struct slot_limit *limit, uint32_t queue,
                       uint64_t max_request_bytes);

/* Do descriptions of the two differ?  A speed differs when it has changed by a tenth. */
bool describe_differs(const struct engine_facts *a, const struct engine_facts *b);

#endif
