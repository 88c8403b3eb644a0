/*
 * openai.h - reads /v1/models, which every engine has, and the pages on which some servers of
 * the OpenAI API say more.  Pure.
 */
#ifndef DROVER_NODE_ENGINE_KINDS_OPENAI_H
#define DROVER_NODE_ENGINE_KINDS_OPENAI_H

#include <stdbool.h>

#include "base/attrs.h"
#include "base/text/json.h"

struct engine_facts;

/* The models in an answer of /v1/models: its `data`, or, of some APIs, all of it. */
struct json_value openai_list(const struct json_value *root);

/* Reads the list of models, and the kind of engine where the list or `server` (the Server
 * header of the answer) shows it.  False: it is no list. */
bool openai_read_models(struct engine_facts *facts, const struct json_value *root,
                        const char *server);

/* Reads LM Studio's /api/v0/models. */
void openai_read_lm_studio(struct engine_facts *facts, const struct json_value *root);

/* Reads TabbyAPI's /v1/model, the one in memory. */
void openai_read_card(struct engine_facts *facts, const struct json_value *root);

/* Reads TGI's /info.  False: it is none. */
MUST_CHECK bool openai_read_info(struct engine_facts *facts, const struct json_value *root);

#endif
