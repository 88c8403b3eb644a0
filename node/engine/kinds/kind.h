/* kind.h - which kind of engine answers, and the operations of each kind.  Pure. */
#ifndef DROVER_NODE_ENGINE_KINDS_KIND_H
#define DROVER_NODE_ENGINE_KINDS_KIND_H

#include <stdint.h>

#include "base/attrs.h"
#include "proto/drover_common.pb-c.h"

struct json_value;

#define KIND(name)      DROVER__V1__ENGINE_KIND__ENGINE_KIND_##name
#define STATE(name)     DROVER__V1__MODEL_STATE__MODEL_STATE_##name
#define OPERATION(name) (UINT32_C(1) << DROVER__V1__OPERATION__OPERATION_##name)

/* The kind that the `data` of /v1/models shows by its owners, or else the Server header of that
 * answer; UNSPECIFIED when neither names one. */
MUST_CHECK uint32_t kind_of_models(const struct json_value *data, const char *server);

/* The kind that a Server header names, or UNSPECIFIED. */
MUST_CHECK uint32_t kind_of_server(const char *server);

/* The operations of a kind, a bit each. */
MUST_CHECK uint32_t kind_operations(uint32_t kind);

/* The operations of a model that only embeds, on an engine that has them all. */
#define KIND_EMBEDDING_OPERATIONS                                          \
    (OPERATION(EMBEDDINGS) | OPERATION(RERANK) | OPERATION(OLLAMA_EMBED) | \
     OPERATION(OLLAMA_EMBEDDINGS) | OPERATION(OLLAMA_SHOW))

#endif
