/* test_handover.c - what masters say to each other, and descriptors that change hands. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/text/buf.h"
#include "master/upgrade/handover.h"
#include "master/upgrade/inherit.h"

Test(handover, comes_out_as_it_went_in)
{
    struct handover in = {.scaled = true, .workers = 3, .activated = {[INHERIT_ADMIN] = true}},
                    out;
    struct buf text = BUF_INIT;

    cr_assert_eq(handover_add_node(&in, "desk", HANDOVER_UP), 0);
    cr_assert_eq(handover_add_node(&in, "tower", HANDOVER_DRAINED), 0);
    handover_encode(&text, &in);
    cr_assert_str_eq(buf_cstr(&text), "workers 3\nactivated admin\nup desk\ndrained tower\n");
    cr_assert_eq(handover_decode(&out, buf_cstr(&text), buf_size(&text), NULL), 0);
    cr_assert(out.scaled);
    cr_assert_eq(out.workers, 3);
    cr_assert(!out.activated[INHERIT_API] && out.activated[INHERIT_ADMIN]);
    cr_assert_eq(out.nodes_count, 2);
    cr_assert_str_eq(out.nodes[0].name, "desk");
    cr_assert_eq(out.nodes[0].state, HANDOVER_UP);
    cr_assert_str_eq(out.nodes[1].name, "tower");
    cr_assert_eq(out.nodes[1].state, HANDOVER_DRAINED);
    handover_finish(&in);
    handover_finish(&out);
    buf_finish(&text);
}

Test(handover, skips_what_a_later_version_may_say_and_what_makes_no_sense)
{
    static const char text[] =
        "colour blue\n\nup\nup \nworkers 65\nactivated sun\nup\0x y\n"
        "up a-name-of-more-than-a-line-has-room-for-"
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n"
        "up last";
    struct handover out;

    cr_assert_eq(handover_decode(&out, text, sizeof(text) - 1, NULL), 0);
    cr_assert_not(out.scaled);
    cr_assert_eq(out.nodes_count, 1);
    cr_assert_str_eq(out.nodes[0].name, "last");
    handover_finish(&out);
}

Test(handover, messages_stay_apart_and_the_end_is_seen)
{
    char text[HANDOVER_MESSAGE_BYTES];
    int pair[2];

    cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
    cr_assert_eq(handover_hear(pair[1], text), 0);
    handover_say(pair[0], "nodes", "1 2");
    handover_say(pair[0], "ready", "");
    cr_assert_eq(handover_hear(pair[1], text), 1);
    cr_assert_str_eq(text, "nodes 1 2");
    cr_assert_eq(handover_hear(pair[1], text), 1);
    cr_assert_str_eq(text, "ready");
    (void)close(pair[0]);
    cr_assert_eq(handover_hear(pair[1], text), -1);
    handover_say(pair[1], "stop", ""); /* the peer is gone: no signal, no harm */
    (void)close(pair[1]);
}

/* ---- descriptors ---- */

/* Descriptors 3 and 4 are Criterion's: only a child of the test may take them.  A
 * child's body returns the line of what it found wrong. */
#define CHECK(what)          \
    do {                     \
        if (!(what))         \
            return __LINE__; \
    } while (0)

static void assert_in_child(int (*body)(void))
{
    int status = 0, line = 0, pair[2];
    pid_t pid;

    cr_assert_eq(pipe(pair), 0);
    pid = fork();
    if (pid == 0) {
        int high = fcntl(pair[1], F_DUPFD, 100);

        line = body();
        _exit(write(high, &line, sizeof(line)) == (ssize_t)sizeof(line) ? 0 : 1);
    }
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert_eq(status, 0);
    cr_assert_eq(read(pair[0], &line, sizeof(line)), (ssize_t)sizeof(line));
    cr_assert_eq(line, 0, "the check in line %d failed", line);
    (void)close(pair[0]);
    (void)close(pair[1]);
}

static void announce(const char *pid, const char *fds, const char *names)
{
    char own[24];

    (void)snprintf(own, sizeof(own), "%d", (int)getpid());
    (void)setenv("LISTEN_PID", pid == NULL ? own : pid, 1);
    (void)setenv("LISTEN_FDS", fds, 1);
    if (names == NULL)
        (void)unsetenv("LISTEN_FDNAMES");
    else
        (void)setenv("LISTEN_FDNAMES", names, 1);
}

/* Puts a socket at `fd`, listening or not. */
static bool put_socket(int fd, bool listening)
{
    struct sockaddr_un sun = {.sun_family = AF_UNIX}; /* the kernel finds a name */
    int s = socket(AF_UNIX, SOCK_STREAM, 0);

    if (listening &&
        (bind(s, (struct sockaddr *)&sun, sizeof(sa_family_t)) == -1 || listen(s, 1) == -1))
        return false;
    if (s == fd)
        return true;
    if (dup2(s, fd) != fd)
        return false;
    (void)close(s);
    return true;
}

Test(inherit, nothing_came_or_it_is_for_another_process)
{
    struct inherited in;

    cr_assert_eq(inherit_take(&in, NULL), 0);
    cr_assert_eq(in.fd[INHERIT_API], -1);
    announce("1", "1", "api");
    cr_assert_eq(inherit_take(&in, NULL), 0);
    cr_assert_eq(in.fd[INHERIT_API], -1);
    cr_assert(getenv("LISTEN_PID") == NULL, "a child would take it for its own");
}

static int by_name(void)
{
    struct inherited in;

    CHECK(put_socket(3, true) && put_socket(4, true));
    announce(NULL, "2", "registry:api");
    CHECK(inherit_take(&in, NULL) == 0);
    CHECK(in.fd[INHERIT_REGISTRY] == 3 && in.fd[INHERIT_API] == 4);
    CHECK(in.fd[INHERIT_ADMIN] == -1);
    CHECK((fcntl(3, F_GETFD) & FD_CLOEXEC) != 0);
    CHECK((fcntl(4, F_GETFL) & O_NONBLOCK) != 0);
    CHECK(inherit_claim(&in, INHERIT_API) == 4);
    inherit_close(&in);
    CHECK(fcntl(3, F_GETFD) == -1 && fcntl(4, F_GETFD) != -1);
    return 0;
}

Test(inherit, sockets_are_taken_by_name)
{
    assert_in_child(by_name);
}

static bool refused(const char *fds, const char *names, const char *words)
{
    struct inherited in;
    struct error err = {0};

    announce(NULL, fds, names);
    return inherit_take(&in, &err) == DRV_EINVAL && strstr(err.text, words) != NULL &&
           getenv("LISTEN_FDS") == NULL;
}

static int wrong(void)
{
    CHECK(put_socket(3, true) && put_socket(4, true));
    CHECK(refused("1", "drover.socket", "'drover.socket'"));
    CHECK(refused("many", "api", "LISTEN_FDS is not a number"));
    CHECK(refused("1", NULL, "names 0 of 1"));
    CHECK(refused("2", "api:api", "two sockets are called 'api'"));
    CHECK(put_socket(3, false));
    CHECK(refused("1", "api", "no listening stream socket"));
    CHECK(close(3) == 0);
    CHECK(refused("1", "api", "descriptor 3 is not open"));
    return 0;
}

Test(inherit, faults_are_said)
{
    assert_in_child(wrong);
}

static int passed_on(void)
{
    struct inherited out, in;

    /* In each other's way, as far as they can be. */
    CHECK(put_socket(3, true) && put_socket(4, true));
    inherit_none(&out);
    out.fd[INHERIT_API] = 4;
    out.fd[INHERIT_REGISTRY] = 3;
    CHECK(inherit_pass(&out) == 0);
    CHECK(strcmp(getenv("LISTEN_FDNAMES"), "api:registry") == 0);
    CHECK((fcntl(3, F_GETFD) & FD_CLOEXEC) == 0); /* else it would not outlive exec */
    CHECK(inherit_take(&in, NULL) == 0);
    CHECK(in.fd[INHERIT_API] == 3 && in.fd[INHERIT_REGISTRY] == 4);
    CHECK(in.fd[INHERIT_LOCK] == -1);
    return 0;
}

Test(inherit, the_next_process_takes_all_that_one_passes)
{
    assert_in_child(passed_on);
}
