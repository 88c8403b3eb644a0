/* reap.c - what a dead process leaves in the scoreboard is taken away. */
#include "shm/reap.h"

#include "shm/procs.h"
#include "shm/routing/gauges.h"
#include "shm/routing/loads.h"
#include "shm/routing/requests.h"
#include "shm/share/model_queues.h"
#include "shm/share/offers.h"
#include "shm/share/queue_heads.h"

void reap_process(struct scoreboard *board, unsigned slot)
{
    /* Beyond the workers' columns these do nothing. */
    gauges_clear_worker(board, slot);
    requests_clear_worker(board, slot);
    loads_clear_worker(board, slot);
    queue_heads_clear_worker(board, slot);
    offers_clear_worker(board, slot);
    model_queues_clear_worker(board, slot);
    procs_clear(board, slot);
}
