/* clients.c - what each client holds, and who gives way. */
#include "policy/share/clients.h"

#include <assert.h>
#include <stdlib.h>

#include "base/hash.h"

/* ---- the table --------------------------------------------------------------------------- */

static size_t bucket_of(uint64_t key)
{
    return hash_spread(key) % CLIENTS_BUCKETS;
}

static struct client_share **entry_of(struct clients *clients, uint64_t key)
{
    struct client_share **entry = &clients->buckets[bucket_of(key)];

    while (*entry != NULL && (*entry)->key != key)
        entry = &(*entry)->next;
    return entry;
}

uint32_t client_connections(const struct clients *clients, uint64_t key)
{
    const struct client_share *client = clients->buckets[bucket_of(key)];

    while (client != NULL && client->key != key)
        client = client->next;
    return client == NULL ? 0 : client->connections;
}

struct client_share *client_join(struct clients *clients, uint64_t key)
{
    struct client_share **entry = entry_of(clients, key), *client = *entry;

    if (client == NULL) {
        client = calloc(1, sizeof(*client));
        if (client != NULL) {
            client->key = key;
            *entry = client;
        } else {
            client = &clients->rest;
        }
    }
    if (client->connections++ == 0)
        clients->count++;
    return client;
}

void client_leave(struct clients *clients, struct client_share *client)
{
    struct client_share **entry;

    assert(client->connections > 0);
    if (--client->connections != 0)
        return;
    clients->count--;
    if (client == &clients->rest)
        return;
    assert(client->bytes == 0);
    entry = entry_of(clients, client->key);
    assert(*entry == client);
    *entry = client->next;
    free(client);
}

void client_hold(struct clients *clients, struct client_share *client, size_t n)
{
    if (n == 0)
        return;
    clients->holders += client->bytes == 0;
    client->bytes += n;
}

void client_release(struct clients *clients, struct client_share *client, size_t n)
{
    if (n == 0)
        return;
    assert(n <= client->bytes);
    client->bytes -= n;
    clients->holders -= client->bytes == 0;
}

/* ---- shares ------------------------------------------------------------------------------ */

enum share_verdict share_judge(const struct share_facts *f)
{
    size_t free_bytes = f->held < f->limit ? f->limit - f->held : 0;
    size_t clients = (size_t)f->clients + (f->mine == 0);

    if (f->n <= free_bytes && free_bytes - f->n >= f->limit / 10)
        return SHARE_FITS;
    if (f->mine != f->one && f->mine + f->n > f->limit / (clients + 1))
        return SHARE_OVER;
    return f->n <= free_bytes ? SHARE_FITS : SHARE_FULL;
}

const char *give_way_name(enum give_way how)
{
    static const char *const names[] = {"never", "upload", "unread", "head", "silent", "idle"};

    return names[how];
}

static uint32_t beyond_share(const struct give_way_candidate *c)
{
    return c->connections > c->share ? c->connections : 0;
}

bool gives_way_before(const struct give_way_candidate *a, const struct give_way_candidate *b)
{
    if (beyond_share(a) != beyond_share(b))
        return beyond_share(a) > beyond_share(b);
    if (a->how != b->how)
        return a->how > b->how;
    return a->since_mono_us < b->since_mono_us;
}

bool gives_way_to(const struct give_way_candidate *a, bool same_client,
                  uint32_t newcomers_connections)
{
    return a->how != GIVE_WAY_NEVER && (same_client || a->connections > newcomers_connections);
}
