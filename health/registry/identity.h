/*
 * identity.h - a node's report about itself, checked, in the form of the node table.  Pure.
 *
 * Register, ModelsUpdate and DescribeResponse carry the same facts in the same messages. Here
 * every limit of drover_common.proto is enforced; a harmless value out of range (an enum value
 * of a newer minor version, a speed that is not a number) becomes "unknown".
 */
#ifndef DROVER_HEALTH_IDENTITY_H
#define DROVER_HEALTH_IDENTITY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "proto/drover_common.pb-c.h"
#include "proto/drover_registry.pb-c.h"
#include "shm/facts/nodes.h"

struct error;

/* The gauges count requests of one worker in 16 bits; no engine runs this many. */
#define IDENTITY_MAX_SLOTS 16384u

/*
 * Replaces the models of *info.  Aliases become rows of their own as long as there is room.
 * DRV_EINVAL: too many models or aliases, a bad or repeated id; *info is then half-changed, so
 * work on a copy.
 */
MUST_CHECK int identity_models(struct node_info *info, Drover__V1__Model *const *models,
                               size_t n, struct error *err);

/* Slots, queue and speeds as the node reports them; NULL is a node with one slot.  A queue is
 * cut to half the slots: a request in it cannot go to another node. */
void identity_capacity(struct node_info *info, const Drover__V1__Capacity *capacity);

/* Engine kind and versions.  DRV_EINVAL: a version that is no printable text. */
MUST_CHECK int identity_versions(struct node_info *info, Drover__V1__EngineKind engine,
                                 const char *engine_version, const char *agent_version,
                                 struct error *err);

/* All that a node says when it joins, but for its address: the whole of *info.  DRV_EINVAL as
 * the parts above. */
MUST_CHECK int identity_register(struct node_info *info, const Drover__V1__Register *said,
                                 struct error *err);

/* The configuration overrides the report.  `slots` 0 and `queue` -1: as reported. */
void identity_override(struct node_info *info, uint32_t slots, int32_t queue);

/* Can the node serve, by its load report and the models it has?  NODE_REASON_NONE: it can. */
enum node_reason identity_load_reason(const Drover__V1__LoadReport *load, size_t models_count);

#endif
