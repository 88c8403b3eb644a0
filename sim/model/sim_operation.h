/* sim_operation.h - what can be asked of the simulated engine, and at which path.  Pure. */
#ifndef DROVER_SIM_OPERATION_H
#define DROVER_SIM_OPERATION_H

#include <stddef.h>

enum sim_operation {
    SIM_OP_NONE = 0, /* of no path */
    SIM_OP_CHAT_COMPLETIONS,
    SIM_OP_COMPLETIONS,
    SIM_OP_EMBEDDINGS,
    SIM_OP_RESPONSES,
    SIM_OP_RERANK,
    SIM_OP_MESSAGES,
    SIM_OP_COUNT_TOKENS,
    SIM_OP_TRANSCRIPTIONS,
    SIM_OP_OLLAMA_CHAT,
    SIM_OP_OLLAMA_GENERATE,
    SIM_OP_OLLAMA_EMBED,
    SIM_OP_OLLAMA_EMBEDDINGS,
    SIM_OP_OLLAMA_SHOW,
    SIM_OP_COUNT,
};

/* The operation of a path, with or without its /v1; SIM_OP_NONE when there is none. */
enum sim_operation sim_operation_of(const char *path, size_t len);

#endif
