/*
 * master.h - the master as a whole, and its parts.
 */
#ifndef DROVER_MASTER_MASTER_H
#define DROVER_MASTER_MASTER_H

#include <stdint.h>

#include "base/attrs.h"
#include "master/console.h"
#include "master/notify.h"
#include "master/reload/reload.h"
#include "master/runtime.h"
#include "master/supervise.h"
#include "master/upgrade/successor.h"
#include "master/upgrade/upgrade.h"

struct buf;
struct config;

struct master {
    struct runtime rt;
    struct supervisor sup;
    struct reload reload;
    struct console console;
    struct notify notify;
    struct upgrade upgrade;     /* to a master after us */
    struct successor successor; /* of a master before us */
    enum child_order order;     /* decided; the children hear it at end_at_mono_us */
    uint64_t end_at_mono_us;    /* 0 = nothing is due */
    int signal_fd;
    int status; /* MASTER_EXIT_* */
};

/* Exit statuses, a promise to scripts and service managers. */
enum {
    MASTER_EXIT_OK = 0,     /* ended in order */
    MASTER_EXIT_FAILED = 1, /* could not start */
    MASTER_EXIT_USAGE = 2,
};

/* Runs a whole life: takes ownership of `config`, which `text` is the source of, and of what it
 * needs of `in`.  `config_path` NULL: there is no file. */
int master_run(const char *config_path, struct config *config, const struct buf *text,
               struct inherited *in);

#endif
