/*
 * prefix.h - which nodes have seen which beginnings of prompts.
 *
 * A prompt is cut into windows; the hash of window k is chained, so it stands for windows 0..k
 * together.  The index maps such a hash to the nodes that were last sent a prompt with it.  Any
 * worker writes without a lock, and it forgets: least recently used first, and entries that a
 * race or a crash loses.  It holds an estimate of what the nodes have in their caches; being
 * wrong costs prefill time on some node, never an answer.
 *
 * A second, smaller table remembers on which node a session (a conversation that the client
 * names) was last.
 *
 * Both forget a node when its row gets a new generation.
 */
#ifndef DROVER_SHM_SHARE_PREFIX_H
#define DROVER_SHM_SHARE_PREFIX_H

#include <stdint.h>

#include "base/attrs.h"

struct scoreboard;

#define PREFIX_DEFAULT_ENTRIES 65536u     /* 2 MiB, and 0.5 MiB for the sessions */
#define PREFIX_MAX_ENTRIES     (1u << 24) /* windows; 512 MiB */

/*
 * The node was sent a prompt whose windows have these chained hashes: from now on it counts as
 * having all of them.  Costs one or two cache lines a window, and writes little when the node
 * had them already (a use is noted once a second).  Ignored when the node's row has another
 * generation.
 */
void prefix_note(struct scoreboard *board, unsigned node, uint32_t generation,
                 const uint64_t *hashes, uint32_t n, uint64_t now_mono_us);

/*
 * How much of a prompt each node has: matched[i] = number of leading windows of the prompt that
 * node's row i has seen (0..n).  `matched` has room for scoreboard_max_nodes() numbers and is
 * written whole.  Returns the greatest of them.
 *
 * Since the hashes are chained, a node listed for window k has had all before it; a window that
 * was forgotten in between does not hide the later ones, but after PREFIX_GAP windows in a row
 * that no node has, the search ends.  Reads only.
 */
uint32_t prefix_match(const struct scoreboard *board, const uint64_t *hashes, uint32_t n,
                      uint32_t *matched);
#define PREFIX_GAP 3u

/* The session's last request went to this node. */
void prefix_session_set(struct scoreboard *board, uint64_t session_hash, unsigned node,
                        uint32_t generation, uint64_t now_mono_us);
/* The node_id of the node that had the session's last request, if it still is the same node;
 * -1: unknown or forgotten. */
MUST_CHECK int prefix_session_get(const struct scoreboard *board, uint64_t session_hash);

#endif
