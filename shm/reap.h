/* reap.h - removes a dead process's entries from the scoreboard. */
#ifndef DROVER_SHM_REAP_H
#define DROVER_SHM_REAP_H

struct scoreboard;

/*
 * W: master, after waitpid() said that the process is gone.  Zeroes a worker's gauges, its open
 * requests, its queue and the offers to it, and its load claims; never histograms, totals or
 * decisions.  Then the row of the process table is FREE.
 */
void reap_process(struct scoreboard *board, unsigned worker);

#endif
