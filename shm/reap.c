/* reap.c - removes a dead process's entries from the scoreboard. */
#include "shm/reap.h"

#include "shm/facts/procs.h"
#include "shm/facts/requests.h"
#include "shm/queue/model_queues.h"
#include "shm/queue/offers.h"
#include "shm/queue/plans.h"
#include "shm/queue/queue_heads.h"
#include "shm/share/gauges.h"
#include "shm/share/loads.h"

void reap_process(struct scoreboard *board, unsigned worker)
{
    /* Beyond the workers' columns these do nothing. */
    gauges_clear_worker(board, worker);
    requests_clear_worker(board, worker);
    loads_clear_worker(board, worker);
    queue_heads_clear_worker(board, worker);
    offers_clear_worker(board, worker);
    plans_clear_worker(board, worker);
    model_queues_clear_worker(board, worker);
    procs_clear(board, worker);
}
