/*
 * clients.h - what each client holds of the things that are limited, and who gives way when one
 * of them runs short.  Pure, but for memory.
 *
 * A limit that is first come, first served is one client's to take.  So each client has a
 * share: what there is, divided by the clients that hold some and one more, which may come yet.
 * Shares act only when nine tenths are taken: until then each client takes what it wants, and
 * the last tenth is there for others.  When nothing is left, those that hold most give way.
 *
 * A client is a number: the caller's hash of an API key's name or of an address.
 */
#ifndef DROVER_POLICY_SHARE_CLIENTS_H
#define DROVER_POLICY_SHARE_CLIENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"

#define CLIENTS_BUCKETS 256

/* One client; there as long as it has a connection. */
struct client_share {
    struct client_share *next;
    uint64_t key;
    uint32_t connections;
    size_t bytes; /* of bodies */
};

/* Zero at first. */
struct clients {
    struct client_share *buckets[CLIENTS_BUCKETS];
    struct client_share rest; /* in common to those for whom there was no memory */
    uint32_t count;           /* clients with a connection */
    uint32_t holders;         /* ... with bytes */
};

/* The client of one more connection; valid until client_leave(), which ends it. */
struct client_share *client_join(struct clients *clients, uint64_t key);
/* How many it has. */
MUST_CHECK uint32_t client_connections(const struct clients *clients, uint64_t key);
/* It holds no bytes for this connection any more. */
void client_leave(struct clients *clients, struct client_share *client);
void client_hold(struct clients *clients, struct client_share *client, size_t n);
void client_release(struct clients *clients, struct client_share *client, size_t n);

/* May a client take n more of a thing? */
struct share_facts {
    size_t limit, held; /* by all */
    uint32_t clients;   /* that hold some of it */
    size_t mine;        /* of `held`: this client's */
    size_t one;         /* of `mine`: what it is to be added to; one thing always fits */
    size_t n;
};
enum share_verdict {
    SHARE_FITS = 0,
    SHARE_OVER, /* this client has its share, and others need the rest */
    SHARE_FULL, /* it may have it, if a client that holds more gives way */
};
enum share_verdict share_judge(const struct share_facts *facts);

/* The order in which connections give way: those of clients over their share first, of these
 * the client's that has most; then by what is lost, and the longest so first. */
enum give_way {
    GIVE_WAY_NEVER = 0, /* it is being served */
    GIVE_WAY_UPLOAD,    /* the body of a request comes */
    GIVE_WAY_UNREAD,    /* its answer is not read */
    GIVE_WAY_HEAD,      /* a part of a head is there */
    GIVE_WAY_SILENT,    /* it never sent a byte */
    GIVE_WAY_IDLE,      /* it had its answers and waits for another request */
};
const char *give_way_name(enum give_way how);

struct give_way_candidate {
    uint32_t connections; /* of its client */
    uint32_t share;       /* connections that each client may have */
    enum give_way how;
    uint64_t since_mono_us;
};
/* Neither is NEVER. */
MUST_CHECK bool gives_way_before(const struct give_way_candidate *a,
                                 const struct give_way_candidate *b);
/* May it give way to one more connection of a client that has so many? */
MUST_CHECK bool gives_way_to(const struct give_way_candidate *a, bool same_client,
                             uint32_t newcomers_connections);

#endif
