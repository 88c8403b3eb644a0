/* nodes_json.h - everything about the nodes as JSON, for people and scripts.  Pure. */
#ifndef DROVER_HEALTH_NODES_JSON_H
#define DROVER_HEALTH_NODES_JSON_H

struct buf;
struct snapshot;

/* Appends {"nodes":[...], ...} and a newline; check out->failed. */
void nodes_json_build(struct buf *out, const struct snapshot *snapshot);

#endif
