/*
 * llama_server.h - reads the answers of llama.cpp's llama-server: /props, /slots, /metrics, and
 * its own members in /v1/models.  Pure.
 */
#ifndef DROVER_NODE_ENGINE_KINDS_LLAMA_SERVER_H
#define DROVER_NODE_ENGINE_KINDS_LLAMA_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"

struct engine_facts;
struct engine_model;
struct json_value;

/* A router's `status` of a model as a drover.v1.ModelState; READY when there is none. */
MUST_CHECK uint32_t llama_server_model_state(const struct json_value *status);

/* A shorter name for the model: without --alias its id is the path of its file.  The name of
 * the file, without ".gguf" and the number of a part; "" when the id is no such path.  `out`
 * takes ENGINE_MODEL_BYTES.  The server does not look at the name that a request has. */
void llama_server_short_name(char *out, const char *id);

/* A hash of llama-server's facts about a model's vocabulary, and of enough of the model to
 * distinguish it from another with a vocabulary of that size; 0 when `meta` lacks them.
 * Quantisation does not matter. */
MUST_CHECK uint64_t llama_server_vocabulary(const struct json_value *meta);

/* A router's models come with a state and with the arguments they would be started with. */
void llama_server_read_routed(struct engine_facts *facts, struct engine_model *model,
                              const struct json_value *status);

/* Reads /props.  False: it is not llama-server's.  Sets the kind, where it is not known. */
bool llama_server_read_props(struct engine_facts *facts, const struct json_value *root);

/* Reads /slots or /metrics of one of a router's models: adds what it shows of its work.  False:
 * it shows none. */
MUST_CHECK bool llama_server_routed_slots(uint64_t *work, const struct json_value *root);
MUST_CHECK bool llama_server_routed_metrics(uint64_t *work, const void *text, size_t n);

/* The work that all of the present tasks show: whatever changes it is progress. */
void llama_server_note_work(struct engine_facts *facts, uint64_t work);

/* A look found no server, or one that loads: the next fall of the tasks' numbers is a new
 * process again. */
void llama_server_note_away(struct engine_facts *facts);

/* Reads /slots.  False: it is no list of slots. */
bool llama_server_read_slots(struct engine_facts *facts, const struct json_value *root);

/* Reads /metrics; `slots_seen`: /slots has said in this look how many requests run. */
void llama_server_read_metrics(struct engine_facts *facts, const void *text, size_t n,
                               bool slots_seen);

/* Writes "?model=NAME", with which a router is asked about one of its models; returns its
 * length.  A name that does not fit is cut. */
size_t llama_server_query(char *out, size_t cap, const char *name);

#endif
