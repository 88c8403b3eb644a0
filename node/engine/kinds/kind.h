/*
 * kind.h - which kind of engine answers.
 *
 * An owner in /v1/models or the Server header names most kinds.  Where neither does, the kind
 * follows from what the engine can do, never from one path alone: many servers answer
 * /api/version or /version.  Pure.
 */
#ifndef DROVER_NODE_ENGINE_KINDS_KIND_H
#define DROVER_NODE_ENGINE_KINDS_KIND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "proto/drover_common.pb-c.h"

struct json_value;

#define KIND(name)  DROVER__V1__ENGINE_KIND__ENGINE_KIND_##name
#define STATE(name) DROVER__V1__MODEL_STATE__MODEL_STATE_##name

/* The page on which a server of the OpenAI API says more of its models. */
enum kind_page {
    KIND_PAGE_NONE = 0,
    KIND_PAGE_LM_STUDIO, /* /api/v0/models: type, state and context of each */
    KIND_PAGE_TABBY,     /* /v1/model: parameters of the loaded one */
    KIND_PAGE_TGI,       /* /info: context of the only one */
};

/* The page that the owners in the `data` of /v1/models point to. */
MUST_CHECK enum kind_page kind_page_of(const struct json_value *data);

/* The kind that the `data` of /v1/models shows by its owners, or else the Server header of that
 * answer.  OPENAI: a server that is known to have no ways of its own; UNSPECIFIED: not known.
 */
MUST_CHECK uint32_t kind_of_models(const struct json_value *data, const char *server);

/* Is the server Llama Drover itself, which is no engine? */
MUST_CHECK bool kind_is_drover(const struct json_value *data, const char *server);

/* The kind whose names the metrics have, or UNSPECIFIED. */
MUST_CHECK uint32_t kind_of_metrics(const void *text, size_t n);

/* The kind that a Server header names, or UNSPECIFIED. */
MUST_CHECK uint32_t kind_of_server(const char *server);

#endif
