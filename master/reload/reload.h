/*
 * reload.h - a new configuration takes over, or everything stays as it was.
 *
 * One attempt: read and check the file, have a child load what it names (a TLS context in the
 * master would be copied into every later child), start new workers from it, and when they
 * serve, let the old ones finish and inform health.  Any failure on the way keeps the old
 * configuration and its workers.  Commands that arrive during an attempt share one more
 * attempt.
 */
#ifndef DROVER_MASTER_RELOAD_H
#define DROVER_MASTER_RELOAD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/attrs.h"
#include "base/config/config_find.h"
#include "base/text/buf.h"

struct config;
struct runtime;
struct supervisor;

struct reload {
    const char *path; /* the config file: borrowed, or `found`; NULL: there is none yet */
    char found[CONFIG_FIND_BYTES];
    struct runtime *rt;     /* borrowed */
    struct supervisor *sup; /* borrowed */
    struct config *config;  /* owned: in force */
    struct config *next;    /* owned: being tried; NULL iff no attempt is under way */
    int check_fd;           /* what the checker says of it; -1: it is done; owned */
    pid_t check_pid;        /* the checker, while check_fd is open */
    struct buf text;        /* of `next` */
    bool wanted;
    uint64_t serial; /* attempts begun */
    uint64_t since_mono_us;
    void (*on_begin)(void *arg); /* an attempt has begun; may be NULL */
    /* An attempt has ended.  `error` NULL: the new config is in force. */
    void (*on_done)(void *arg, uint64_t serial, const char *error);
    void *arg;
};

/* Takes ownership of `config`, the one in force. */
void reload_init(struct reload *reload, const char *path, struct runtime *rt,
                 struct supervisor *sup, struct config *config);
void reload_finish(struct reload *reload);
/* Closes the descriptors, in a child. */
void reload_leave(struct reload *reload);

/* Wants the file read again; the attempt that will do it has the returned serial number. */
uint64_t reload_want(struct reload *reload);

bool reload_under_way(const struct reload *reload);

/* Continues the attempt under way.  Calls on_done when an attempt has ended. */
void reload_step(struct reload *reload, uint64_t now_mono_us);

/* Time until reload_step() must be called again, at most max_ms. */
int reload_wait_ms(const struct reload *reload, int max_ms);

#endif
