/*
 * model_queues.h - how many requests wait for each model, over all workers, and the last
 * rejection.
 *
 * Admission goes by it: every worker sees the whole queue of a model.  A row belongs to one
 * model from its first use until the scoreboard ends, so a caller may keep its number.  Models
 * that come when all rows are taken share the last row, MODEL_QUEUES_OTHERS.
 *
 * W: a worker, its own word of each row; the master clears a dead worker's.  Any worker writes
 * the time of the last rejection, which only grows.
 */
#ifndef DROVER_SHM_QUEUE_MODEL_QUEUES_H
#define DROVER_SHM_QUEUE_MODEL_QUEUES_H

#include <stdint.h>

struct scoreboard;

#define MODEL_QUEUES_ROWS   1024u
#define MODEL_QUEUES_OTHERS (MODEL_QUEUES_ROWS - 1)

/*
 * The row of the model whose name has this hash.  On a writable handle it is taken if there is
 * none; take rows only for models that nodes serve, as they are never given back.  On a
 * read-only handle a model without a row has MODEL_QUEUES_OTHERS.
 */
uint32_t model_queues_row(struct scoreboard *board, uint64_t model_hash);

/* One request more, or one less, waits in the worker.  A count does not fall below 0.  Ignored
 * on a read-only handle and out of range. */
void model_queues_enter(struct scoreboard *board, unsigned worker, uint32_t row);
void model_queues_leave(struct scoreboard *board, unsigned worker, uint32_t row);

/* Requests that wait: in one worker, in all; stopped workers count too. */
uint32_t model_queues_of(const struct scoreboard *board, unsigned worker, uint32_t row);
uint32_t model_queues_waiting(const struct scoreboard *board, uint32_t row);

/* A request for the model was rejected, as too many wait.  An earlier instant than the last one
 * changes nothing. */
void model_queues_refuse(struct scoreboard *board, uint32_t row, uint64_t now_mono_us);
/* 0 = never. */
uint64_t model_queues_refused_mono_us(const struct scoreboard *board, uint32_t row);

/* W: master, for a worker that is gone. */
void model_queues_clear_worker(struct scoreboard *board, unsigned worker);

#endif
