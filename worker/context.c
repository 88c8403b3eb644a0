/* context.c - the state that all parts of a worker process share. */
#include "worker/context.h"

#include <stdlib.h>

#include "base/config/config.h"

void worker_context_init(struct worker_context *context)
{
    wire_arena_init(&context->arena);
    context->times = route_times(context->config->testing.speedup);
    context->hold_us = config_hold_us(context->config);
    context->random = ((uint64_t)arc4random() << 32) | arc4random();
}

void worker_context_finish(struct worker_context *context)
{
    wire_arena_finish(&context->arena);
}
