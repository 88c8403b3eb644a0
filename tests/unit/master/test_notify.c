/* test_notify.c - notifications to a service manager whose queue is full for a while. */
#include <criterion/criterion.h>

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "master/notify.h"

struct rig {
    struct notify notify;
    char dir[64], path[80];
    int manager;
};

static void start(struct rig *rig)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};

    *rig = (struct rig){0};
    (void)strlcpy(rig->dir, "/tmp/drover-test-XXXXXX", sizeof(rig->dir));
    cr_assert_not_null(mkdtemp(rig->dir));
    (void)snprintf(rig->path, sizeof(rig->path), "%s/notify", rig->dir);
    (void)strlcpy(addr.sun_path, rig->path, sizeof(addr.sun_path));
    rig->manager = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    cr_assert(rig->manager >= 0);
    cr_assert_eq(bind(rig->manager, (const struct sockaddr *)&addr, sizeof(addr)), 0);
    cr_assert_eq(setenv("NOTIFY_SOCKET", rig->path, 1), 0);
    notify_open(&rig->notify);
    cr_assert_neq(rig->notify.fd, -1);
}

static void end(struct rig *rig)
{
    notify_close(&rig->notify);
    (void)close(rig->manager);
    (void)unlink(rig->path);
    (void)rmdir(rig->dir);
}

/* Another sender fills the socket. */
static void fill(const struct rig *rig)
{
    while (sendto(rig->notify.fd, "X=1", 3, MSG_NOSIGNAL,
                  (const struct sockaddr *)&rig->notify.addr, rig->notify.addr_len) == 3)
        continue;
    cr_assert_eq(errno, EAGAIN);
}

/* Reads until a message begins so; false: it was not among them. */
static bool heard(int manager, const char *begin, int flags)
{
    char text[256];
    ssize_t n;

    while ((n = recv(manager, text, sizeof(text) - 1, flags)) > 0) {
        text[n] = '\0';
        if (strncmp(text, begin, strlen(begin)) == 0)
            return true;
    }
    return false;
}

Test(notify, ready_is_said_again_until_it_is_taken_and_then_no_more)
{
    struct rig rig;

    start(&rig);
    fill(&rig);
    notify_ready(&rig.notify, "serving");
    cr_expect_not(heard(rig.manager, "READY=1", MSG_DONTWAIT));
    notify_ready(&rig.notify, "serving");
    cr_expect(heard(rig.manager, "READY=1", MSG_DONTWAIT));
    notify_ready(&rig.notify, "serving");
    cr_expect_not(heard(rig.manager, "READY=1", MSG_DONTWAIT), "said twice");
    end(&rig);
}

static void *listen_late(void *data)
{
    struct rig *rig = data;
    const struct timespec pause = {.tv_nsec = 30000000};

    (void)nanosleep(&pause, NULL); /* the manager is busy; not what the test waits for */
    return heard(rig->manager, "MAINPID=4711", 0) ? rig : NULL;
}

Test(notify, a_manager_that_is_busy_hears_of_the_successor_all_the_same, .timeout = 20)
{
    struct rig rig;
    pthread_t thread;
    void *result = NULL;

    start(&rig);
    fill(&rig);
    cr_assert_eq(pthread_create(&thread, NULL, listen_late, &rig), 0);
    notify_successor(&rig.notify, 4711);
    cr_assert_eq(pthread_join(thread, &result), 0);
    cr_expect_not_null(result);
    end(&rig);
}
