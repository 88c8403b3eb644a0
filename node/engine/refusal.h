/*
 * refusal.h - what an engine lacks, read from the words of its refusal.  Pure.
 *
 * Engines that serve one model differ in their context, in the images and sounds that they
 * take, in how they were started.  A refusal is an HTTP error, and only its text names the
 * cause, so this file knows the texts of llama-server, Ollama, vLLM, SGLang, TGI, LM
 * Studio, TabbyAPI, LocalAI, and of the paid APIs.
 */
#ifndef DROVER_NODE_ENGINE_REFUSAL_H
#define DROVER_NODE_ENGINE_REFUSAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "base/kinds.h"

struct refusal {
    enum ability ability;
    /* Of a context: tokens that the engine has, and that the request needs, as far as the
     * engine gives these figures.  Of VISION and AUDIO: how many pieces it takes.  Of
     * OPERATION: 1 = perhaps it lacks a stream of it alone.  0 = not said. */
    uint64_t limit, needed;
};

/* True: the engine lacks *out for this request.  `text` is the message in the body. */
MUST_CHECK bool refusal_read(struct refusal *out, unsigned http_status, const void *body,
                             size_t n, const char *text);

#endif
