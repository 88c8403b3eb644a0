/* ollama.h - reads Ollama's own lists.  Pure. */
#ifndef DROVER_NODE_ENGINE_KINDS_OLLAMA_H
#define DROVER_NODE_ENGINE_KINDS_OLLAMA_H

#include <stdbool.h>

#include "base/attrs.h"

struct engine_facts;
struct json_value;

/* Does /api/tags list the models that /v1/models listed, by the same names?  Other servers with
 * Ollama's API show names there that their OpenAI API refuses. */
MUST_CHECK bool ollama_lists(const struct engine_facts *facts, const struct json_value *root);

/* Reads /api/tags, the models on disk. */
void ollama_read_tags(struct engine_facts *facts, const struct json_value *root);

/* Reads /api/ps, the models in memory. */
void ollama_read_ps(struct engine_facts *facts, const struct json_value *root);

#endif
