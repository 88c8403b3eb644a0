/* openai.h - reads /v1/models, which every engine has.  Pure. */
#ifndef DROVER_NODE_ENGINE_KINDS_OPENAI_H
#define DROVER_NODE_ENGINE_KINDS_OPENAI_H

#include <stdbool.h>

struct engine_facts;
struct json_value;

/* Reads the list of models, and the kind of engine where the list or `server` (the Server
 * header of the answer) shows it.  False: it is no list. */
bool openai_read_models(struct engine_facts *facts, const struct json_value *root,
                        const char *server);

#endif
