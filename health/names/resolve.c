/* resolve.c - names to addresses without blocking the loop. */
#include "health/names/resolve.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/error.h"
#include "base/loop.h"

/* The loop and the thread hold one reference each.  The thread writes rc, list and err before
 * it signals the eventfd; the loop reads them after. */
struct resolve {
    atomic_int refs;
    char *text; /* owned */
    int done_fd;
    int rc;
    struct net_addr list[RESOLVE_MAX];
    size_t count;
    struct error err;

    struct watch *watch; /* the loop's side alone */
    resolve_cb *cb;
    void *data;
};

static void unref(struct resolve *r)
{
    if (atomic_fetch_sub(&r->refs, 1) != 1)
        return;
    (void)close(r->done_fd);
    free(r->text);
    free(r);
}

static void *ask(void *data)
{
    struct resolve *r = data;
    uint64_t one = 1;
    int n = net_resolve_all(r->list, RESOLVE_MAX, r->text, &r->err);

    r->rc = n < 0 ? n : 0;
    r->count = n < 0 ? 0 : (size_t)n;
    /* An eventfd takes a first write always. */
    (void)!write(r->done_fd, &one, sizeof(one));
    unref(r);
    return NULL;
}

static void on_done(struct watch *watch, void *data)
{
    struct resolve *r = data;

    watch_stop(watch);
    r->watch = NULL;
    r->cb(r->rc, r->list, r->count, r->err.text, r->data);
    unref(r);
}

int resolve_start(struct resolve **out, struct loop *loop, const char *text, resolve_cb *cb,
                  void *data, struct error *err)
{
    struct resolve *r = calloc(1, sizeof(*r));
    pthread_attr_t attr;
    pthread_t thread;
    int rc = 0;

    *out = NULL;
    if (r == NULL || (r->text = strdup(text)) == NULL) {
        free(r);
        return error_set(err, DRV_ENOMEM, "out of memory");
    }
    r->cb = cb;
    r->data = data;
    atomic_init(&r->refs, 1);
    r->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (r->done_fd == -1) {
        rc = error_sys(err, "eventfd");
        free(r->text);
        free(r);
        return rc;
    }
    r->watch = watch_start(loop, r->done_fd, on_done, r, err);
    if (r->watch == NULL) {
        unref(r);
        return DRV_ESYS;
    }
    atomic_store(&r->refs, 2);
    (void)pthread_attr_init(&attr);
    (void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    if (pthread_create(&thread, &attr, ask, r) != 0) {
        rc = error_set(err, DRV_ESYS, "cannot start a thread to resolve %s", text);
        watch_stop(r->watch);
        unref(r);
        unref(r);
        r = NULL;
    }
    (void)pthread_attr_destroy(&attr);
    *out = r;
    return rc;
}

void resolve_cancel(struct resolve *resolve)
{
    if (resolve == NULL)
        return;
    watch_stop(resolve->watch);
    resolve->watch = NULL;
    unref(resolve);
}
