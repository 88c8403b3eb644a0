/* curl_loop.c - libcurl transfers on the event loop. */
#include "node/engine/curl_loop.h"

#include <assert.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"

/* Hands out the transfers that have ended. */
static void collect(struct curl_loop *cl)
{
    CURLMsg *message;
    int left;

    while ((message = curl_multi_info_read(cl->multi, &left)) != NULL) {
        CURLcode code = message->data.result;
        CURL *easy = message->easy_handle;
        struct curl_job *job = NULL;
        void *private = NULL;

        if (message->msg != CURLMSG_DONE)
            continue;
        (void)curl_easy_getinfo(easy, CURLINFO_PRIVATE, &private);
        job = private;
        (void)curl_multi_remove_handle(cl->multi, easy);
        job->on_done(job, code);
    }
}

static void act(struct curl_loop *cl, curl_socket_t fd, int mask)
{
    int running;

    cl->inside++;
    (void)curl_multi_socket_action(cl->multi, fd, mask, &running);
    cl->inside--;
}

static void on_readable(struct watch *watch, void *data)
{
    struct curl_loop *cl = data;
    struct epoll_event events[64];
    int n;

    (void)watch;
    n = epoll_wait(cl->epoll_fd, events, (int)ARRAY_LEN(events), 0);
    for (int i = 0; i < n; i++) {
        int mask = 0;

        if ((events[i].events & EPOLLIN) != 0)
            mask |= CURL_CSELECT_IN;
        if ((events[i].events & EPOLLOUT) != 0)
            mask |= CURL_CSELECT_OUT;
        if ((events[i].events & (EPOLLERR | EPOLLHUP)) != 0)
            mask |= CURL_CSELECT_ERR;
        act(cl, events[i].data.fd, mask);
    }
    collect(cl);
}

static void on_timeout(struct timer *timer)
{
    struct curl_loop *cl = CONTAINER_OF(timer, struct curl_loop, timer);

    act(cl, CURL_SOCKET_TIMEOUT, 0);
    collect(cl);
}

static int on_timer_request(CURLM *multi, long timeout_ms, void *data)
{
    struct curl_loop *cl = data;

    (void)multi;
    if (timeout_ms < 0)
        timer_stop(cl->loop, &cl->timer);
    else
        timer_start(cl->loop, &cl->timer, (uint64_t)timeout_ms * US_PER_MS, on_timeout);
    return 0;
}

static int on_socket_request(CURL *easy, curl_socket_t fd, int what, void *data, void *known)
{
    struct curl_loop *cl = data;
    struct epoll_event event = {.data.fd = fd};

    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        (void)epoll_ctl(cl->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
        (void)curl_multi_assign(cl->multi, fd, NULL);
        return 0;
    }
    if (what == CURL_POLL_IN || what == CURL_POLL_INOUT)
        event.events |= EPOLLIN;
    if (what == CURL_POLL_OUT || what == CURL_POLL_INOUT)
        event.events |= EPOLLOUT;
    if (epoll_ctl(cl->epoll_fd, known == NULL ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &event) ==
        -1)
        (void)epoll_ctl(cl->epoll_fd, known == NULL ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd,
                        &event);
    (void)curl_multi_assign(cl->multi, fd, cl); /* any pointer: "is in the epoll set" */
    return 0;
}

int curl_loop_init(struct curl_loop *cl, struct loop *loop, struct error *err)
{
    memset(cl, 0, sizeof(*cl));
    cl->loop = loop;
    cl->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (cl->epoll_fd == -1)
        return error_sys(err, "epoll_create1");
    cl->multi = curl_multi_init();
    if (cl->multi == NULL) {
        (void)close(cl->epoll_fd);
        cl->epoll_fd = -1;
        return error_set(err, DRV_ENOMEM, "out of memory");
    }
    (void)curl_multi_setopt(cl->multi, CURLMOPT_SOCKETFUNCTION, on_socket_request);
    (void)curl_multi_setopt(cl->multi, CURLMOPT_SOCKETDATA, cl);
    (void)curl_multi_setopt(cl->multi, CURLMOPT_TIMERFUNCTION, on_timer_request);
    (void)curl_multi_setopt(cl->multi, CURLMOPT_TIMERDATA, cl);
    (void)curl_multi_setopt(cl->multi, CURLMOPT_PIPELINING, CURLPIPE_NOTHING);
    cl->watch = watch_start(loop, cl->epoll_fd, on_readable, cl, err);
    if (cl->watch == NULL) {
        curl_loop_finish(cl);
        return DRV_ESYS;
    }
    return 0;
}

void curl_loop_finish(struct curl_loop *cl)
{
    if (cl->multi == NULL)
        return;
    watch_stop(cl->watch);
    cl->watch = NULL;
    (void)curl_multi_cleanup(cl->multi);
    cl->multi = NULL;
    timer_stop(cl->loop, &cl->timer);
    (void)close(cl->epoll_fd);
    cl->epoll_fd = -1;
}

int curl_loop_add(struct curl_loop *cl, struct curl_job *job)
{
    (void)curl_easy_setopt(job->easy, CURLOPT_PRIVATE, job);
    return curl_multi_add_handle(cl->multi, job->easy) == CURLM_OK ? 0 : DRV_ENOMEM;
}

void curl_loop_remove(struct curl_loop *cl, struct curl_job *job)
{
    assert(cl->inside == 0);
    (void)curl_multi_remove_handle(cl->multi, job->easy);
}

void curl_loop_free_headers(struct curl_slist *headers)
{
    for (struct curl_slist *item = headers; item != NULL; item = item->next)
        explicit_bzero(item->data, strlen(item->data));
    curl_slist_free_all(headers);
}
