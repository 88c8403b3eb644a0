/* resolve.c - see resolve.h. */
#include "base/io/resolve.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/error.h"
#include "base/io/loop.h"

/* The loop and the thread hold one reference each.  The thread writes rc, list, count and err
 * before it signals the eventfd; the loop reads them after. */
struct resolve {
    atomic_int refs;
    char *text;  /* owned */
    int done_fd; /* owned; -1 = the address is numeric: there is no thread */
    int rc;
    struct net_addr list[RESOLVE_MAX];
    size_t count;
    struct error err;

    /* The loop's side alone. */
    struct loop *loop;   /* borrowed */
    struct watch *watch; /* owned; of done_fd */
    struct timer timer;  /* numeric: calls back from the loop, not from resolve_start() */
    resolve_cb *cb;
    void *data;
};

static void unref(struct resolve *r)
{
    if (atomic_fetch_sub(&r->refs, 1) != 1)
        return;
    if (r->done_fd != -1)
        (void)close(r->done_fd);
    free(r->text);
    free(r);
}

static void *look_up(void *data)
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

static void finish(struct resolve *r)
{
    watch_stop(r->watch);
    r->watch = NULL;
    r->cb(r->rc, r->list, r->count, r->err.text, r->data);
    unref(r);
}

static void on_done(struct watch *watch, void *data)
{
    (void)watch;
    finish(data);
}

static void on_numeric(struct timer *timer)
{
    finish(CONTAINER_OF(timer, struct resolve, timer));
}

/* The thread has a reference of its own from here on. */
static int start_thread(struct resolve *r, struct error *err)
{
    pthread_attr_t attr;
    pthread_t thread;
    int rc;

    r->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (r->done_fd == -1)
        return error_sys(err, "eventfd");
    r->watch = watch_start(r->loop, r->done_fd, on_done, r, err);
    if (r->watch == NULL)
        return DRV_ESYS;
    atomic_store(&r->refs, 2);
    (void)pthread_attr_init(&attr);
    (void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    rc = pthread_create(&thread, &attr, look_up, r);
    (void)pthread_attr_destroy(&attr);
    if (rc == 0)
        return 0;
    atomic_store(&r->refs, 1);
    return error_set(err, DRV_ESYS, "cannot start a thread to resolve %s: %s", r->text,
                     strerror(rc));
}

int resolve_start(struct resolve **out, struct loop *loop, const char *text, resolve_cb *cb,
                  void *data, struct error *err)
{
    struct resolve *r = calloc(1, sizeof(*r));
    int rc;

    *out = NULL;
    if (r == NULL || (r->text = strdup(text)) == NULL) {
        free(r);
        return error_set(err, DRV_ENOMEM, "out of memory");
    }
    atomic_init(&r->refs, 1);
    r->done_fd = -1;
    r->loop = loop;
    r->cb = cb;
    r->data = data;
    if (net_parse(&r->list[0], text, NULL) == 0) {
        r->count = 1;
        timer_start(loop, &r->timer, 0, on_numeric);
    } else {
        rc = start_thread(r, err);
        if (rc != 0) {
            resolve_cancel(r);
            return rc;
        }
    }
    *out = r;
    return 0;
}

void resolve_cancel(struct resolve *resolve)
{
    if (resolve == NULL)
        return;
    timer_stop(resolve->loop, &resolve->timer);
    watch_stop(resolve->watch);
    resolve->watch = NULL;
    unref(resolve);
}
