/* ollama.h - reads Ollama's own lists.  Pure. */
#ifndef DROVER_NODE_ENGINE_KINDS_OLLAMA_H
#define DROVER_NODE_ENGINE_KINDS_OLLAMA_H

struct engine_facts;
struct json_value;

/* Reads /api/tags, the models on disk. */
void ollama_read_tags(struct engine_facts *facts, const struct json_value *root);

/* Reads /api/ps, the models in memory. */
void ollama_read_ps(struct engine_facts *facts, const struct json_value *root);

#endif
