/*
 * batching.h - reads the answers of the engines that batch continuously, vLLM and SGLang. Pure.
 */
#ifndef DROVER_NODE_ENGINE_KINDS_BATCHING_H
#define DROVER_NODE_ENGINE_KINDS_BATCHING_H

#include <stddef.h>

struct engine_facts;
struct json_value;

/* Reads /metrics of an engine of kind VLLM or SGLANG. */
void batching_read_metrics(struct engine_facts *facts, const void *text, size_t n);

/* Reads SGLang's /server_info. */
void batching_read_server_info(struct engine_facts *facts, const struct json_value *root);

/* Reads SGLang's /model_info: what its one model takes. */
void batching_read_model_info(struct engine_facts *facts, const struct json_value *root);

#endif
