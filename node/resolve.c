/* resolve.c - "HOST:PORT" to an address without ever blocking the loop. */
#include "node/resolve.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/error.h"
#include "base/loop.h"

/* Shared by the loop and the thread; whoever lets go last frees it. */
struct job {
    _Atomic int owners;
    int event_fd; /* owned; written once by the thread */
    char text[256];
    struct net_addr addr; /* the thread's until it writes to event_fd */
    int rc;
    struct error err;
};

struct resolve {
    struct loop *loop;   /* borrowed */
    struct job *job;     /* shared; NULL when the address was numeric */
    struct watch *watch; /* owned; NULL when the address was numeric */
    struct timer timer;  /* numeric: calls back from the loop, not from resolve_start() */
    struct net_addr addr;
    void (*on_done)(void *data, const struct net_addr *addr, const char *why);
    void *data;
};

static void release(struct job *job)
{
    if (atomic_fetch_sub(&job->owners, 1) != 1)
        return;
    (void)close(job->event_fd);
    free(job);
}

static void *look_up(void *data)
{
    struct job *job = data;
    uint64_t one = 1;

    job->rc = net_resolve(&job->addr, job->text, &job->err);
    (void)!write(job->event_fd, &one, sizeof(one));
    release(job);
    return NULL;
}

static void done(struct resolve *resolve, const struct net_addr *addr, const char *why)
{
    void (*on_done)(void *, const struct net_addr *, const char *) = resolve->on_done;
    struct net_addr copy = {0};
    struct error err = {0};
    void *data = resolve->data;
    bool found = addr != NULL;

    if (found)
        copy = *addr;
    else
        (void)error_set(&err, DRV_ENOENT, "%s", why);
    resolve_cancel(resolve);
    on_done(data, found ? &copy : NULL, err.text);
}

static void on_event(struct watch *watch, void *data)
{
    struct resolve *resolve = data;
    uint64_t count;

    (void)watch;
    if (read(resolve->job->event_fd, &count, sizeof(count)) != (ssize_t)sizeof(count))
        return;
    if (resolve->job->rc == 0)
        done(resolve, &resolve->job->addr, "");
    else
        done(resolve, NULL, resolve->job->err.text);
}

static void on_numeric(struct timer *timer)
{
    struct resolve *resolve = CONTAINER_OF(timer, struct resolve, timer);

    done(resolve, &resolve->addr, "");
}

static int start_thread(struct resolve *resolve, const char *text, struct error *err)
{
    struct job *job = calloc(1, sizeof(*job));
    pthread_attr_t attr;
    pthread_t thread;
    int rc;

    if (job == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    (void)strlcpy(job->text, text, sizeof(job->text));
    job->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (job->event_fd == -1) {
        free(job);
        return error_sys(err, "eventfd");
    }
    atomic_store(&job->owners, 1);
    resolve->job = job;
    resolve->watch = watch_start(resolve->loop, job->event_fd, on_event, resolve, err);
    if (resolve->watch == NULL)
        return DRV_ESYS;
    atomic_store(&job->owners, 2);
    (void)pthread_attr_init(&attr);
    (void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    rc = pthread_create(&thread, &attr, look_up, job);
    (void)pthread_attr_destroy(&attr);
    if (rc != 0) {
        atomic_store(&job->owners, 1);
        return error_set(err, DRV_ESYS, "pthread_create: %s", strerror(rc));
    }
    return 0;
}

int resolve_start(struct resolve **out, struct loop *loop, const char *text,
                  void (*on_done)(void *data, const struct net_addr *addr, const char *why),
                  void *data, struct error *err)
{
    struct resolve *resolve = calloc(1, sizeof(*resolve));
    int rc;

    *out = NULL;
    if (resolve == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    resolve->loop = loop;
    resolve->on_done = on_done;
    resolve->data = data;
    if (net_parse(&resolve->addr, text, NULL) == 0) {
        timer_start(loop, &resolve->timer, 0, on_numeric);
    } else {
        rc = start_thread(resolve, text, err);
        if (rc != 0) {
            resolve_cancel(resolve);
            return rc;
        }
    }
    *out = resolve;
    return 0;
}

void resolve_cancel(struct resolve *resolve)
{
    if (resolve == NULL)
        return;
    timer_stop(resolve->loop, &resolve->timer);
    watch_stop(resolve->watch);
    if (resolve->job != NULL)
        release(resolve->job);
    free(resolve);
}
