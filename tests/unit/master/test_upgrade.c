/* test_upgrade.c - how an upgrade's attempt ends, with a directory and a channel, no process.
 */
#include <criterion/criterion.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/config/config.h"
#include "master/supervise.h"
#include "master/upgrade/upgrade.h"

#define PID    4711 /* no real process: the test only reports its death */
#define KILLED 9    /* a wait status */

struct rig {
    struct runtime rt;
    struct supervisor sup;
    struct upgrade up;
    int successor; /* the other end of the channel */
    unsigned failed, succeeded, ceded;
    enum child_order ordered;
    char said[HANDOVER_MESSAGE_BYTES];
};

static void on_news(void *arg, uint64_t serial, bool done, bool ok, const char *text)
{
    struct rig *rig = arg;

    (void)serial;
    rig->failed += done && !ok;
    rig->succeeded += done && ok;
    (void)strlcpy(rig->said, text, sizeof(rig->said));
}

static void on_order(void *arg, enum child_order order)
{
    struct rig *rig = arg;

    cr_expect(rig->failed + rig->succeeded == 1, "ordered before it was known how it ends");
    rig->ordered = order;
}

static void path_of(const struct rig *rig, char out[256], const char *name)
{
    (void)snprintf(out, 256, "%s/%s", rig->rt.dir, name);
}

static void on_hand_over(void *arg, pid_t pid)
{
    struct rig *rig = arg;
    char message[HANDOVER_MESSAGE_BYTES];

    cr_expect_eq(pid, PID);
    cr_expect_eq(handover_hear(rig->successor, message), 0, "it could already speak for us");
    rig->ceded++;
}

static void write_file(const struct rig *rig, const char *name, const char *text)
{
    char path[256];
    FILE *file;

    path_of(rig, path, name);
    file = fopen(path, "w");
    cr_assert_not_null(file);
    cr_assert(fputs(text, file) >= 0);
    cr_assert_eq(fclose(file), 0);
}

static void assert_file(const struct rig *rig, const char *name, const char *text)
{
    char path[256], got[64] = "";
    FILE *file;

    path_of(rig, path, name);
    file = fopen(path, "r");
    if (text == NULL) {
        cr_assert_null(file, "%s is there", name);
        return;
    }
    cr_assert_not_null(file, "%s is gone", name);
    (void)!fgets(got, sizeof(got), file);
    (void)fclose(file);
    cr_assert_str_eq(got, text, "%s", name);
}

/* A master that serves, with its files in a directory of its own. */
static void start(struct rig *rig)
{
    static const struct config config;
    static const char *const config_path = "none.yaml";
    char path[256];

    *rig = (struct rig){
        .rt = {.files = RUNTIME_FILES_OURS, .api_fd = -1, .admin_fd = -1, .registry_fd = -1},
        .sup = {.config = &config, .command_fd = -1, .proven = true},
        .successor = -1};
    (void)strlcpy(rig->rt.dir, "/tmp/drover-test-XXXXXX", sizeof(rig->rt.dir));
    cr_assert_not_null(mkdtemp(rig->rt.dir));
    path_of(rig, path, RUNTIME_LOCK_NAME);
    rig->rt.lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    cr_assert(rig->rt.lock_fd >= 0);
    write_file(rig, "scoreboard", "live");
    write_file(rig, "control.sock", "live");
    upgrade_init(&rig->up, &config_path, &rig->rt, &rig->sup);
    rig->up.on_hand_over = on_hand_over;
    rig->up.on_news = on_news;
    rig->up.on_order = on_order;
    rig->up.arg = rig;
}

/* As if it had started PID, and nodes were on their way there. */
static void let_gather(struct rig *rig)
{
    int pair[2];

    cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair), 0);
    cr_assert_eq(runtime_backup_names(&rig->rt, NULL), 0);
    rig->up.channel = pair[0];
    rig->successor = pair[1];
    rig->up.pid = PID;
    rig->up.phase = UPGRADE_GATHERING;
    rig->up.released = true;
}

static void end(struct rig *rig)
{
    static const char *const names[] = {"scoreboard", "control.sock", "addresses",
                                        "drover.lock"};
    char path[256];

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        path_of(rig, path, names[i]);
        (void)unlink(path);
    }
    cr_assert_eq(rmdir(rig->rt.dir), 0, "a file was left in %s", rig->rt.dir);
    upgrade_finish(&rig->up);
    (void)close(rig->successor);
    (void)close(rig->rt.lock_fd);
}

/* systemd ignores messages of a process until it knows that as the main one. */
Test(upgrade, the_service_manager_knows_the_successor_before_it_may_speak)
{
    char message[HANDOVER_MESSAGE_BYTES];
    struct rig rig;

    start(&rig);
    let_gather(&rig);
    handover_say(rig.successor, "ready", "");
    upgrade_step(&rig.up, 1, false);
    cr_expect_eq(rig.ceded, 1);
    cr_expect_eq(rig.succeeded, 1);
    cr_expect_eq(handover_hear(rig.successor, message), 1);
    cr_expect(strncmp(message, "go", 2) == 0, "%s", message);
    end(&rig);
}

Test(upgrade, a_successor_that_dies_after_ready_and_before_go_has_failed)
{
    struct rig rig;

    start(&rig);
    let_gather(&rig);
    handover_say(rig.successor, "ready", "");
    upgrade_reaped(&rig.up, PID, KILLED);
    cr_expect_eq(rig.succeeded, 0);
    cr_expect_eq(rig.failed, 1);
    cr_expect_eq(rig.up.phase, UPGRADE_NONE);
    cr_expect_eq(rig.rt.files, RUNTIME_FILES_OURS, "it gave its files to a dead process");
    cr_expect_neq(rig.rt.lock_fd, -1, "it gave its lock to a dead process");
    assert_file(&rig, "scoreboard", "live");
    end(&rig);
}

Test(upgrade, a_failure_heard_with_the_death_is_reported_once_and_in_its_own_words)
{
    struct rig rig;

    start(&rig);
    let_gather(&rig);
    handover_say(rig.successor, "failed", "port 80 is taken");
    upgrade_reaped(&rig.up, PID, KILLED);
    cr_expect_eq(rig.failed, 1, "told %u times", rig.failed);
    cr_expect_str_eq(rig.said, "port 80 is taken");
    end(&rig);
}

/* Else its hang-up would wake us in every turn until it is reaped. */
Test(upgrade, one_that_is_given_up_is_not_listened_to_any_more)
{
    struct rig rig;

    start(&rig);
    let_gather(&rig);
    rig.up.pid = fork();
    if (rig.up.pid == 0) {
        (void)pause();
        _exit(0);
    }
    handover_say(rig.successor, "failed", "port 80 is taken");
    upgrade_step(&rig.up, 0, false);
    cr_expect(upgrade_undoing(&rig.up));
    cr_expect_eq(rig.up.channel, -1);
    cr_expect_eq(rig.failed, 0, "told before the process is gone");
    cr_assert_eq(waitpid(rig.up.pid, NULL, 0), rig.up.pid);
    upgrade_reaped(&rig.up, rig.up.pid, KILLED);
    cr_expect_eq(rig.failed, 1);
    end(&rig);
}

/* A master that was killed in an upgrade leaves second names of files that are no longer. */
Test(upgrade, the_leavings_of_an_earlier_master_are_never_put_back)
{
    struct rig rig;

    start(&rig);
    rig.sup.proven = false;
    write_file(&rig, "scoreboard.old", "of a dead master");
    (void)upgrade_want(&rig.up);
    upgrade_step(&rig.up, 1, true);
    cr_expect_eq(rig.failed, 1);
    assert_file(&rig, "scoreboard", "live");
    rig.sup.proven = true;
    cr_assert_eq(runtime_backup_names(&rig.rt, NULL), 0);
    runtime_restore_names(&rig.rt);
    assert_file(&rig, "scoreboard", "live");
    assert_file(&rig, "scoreboard.old", NULL);
    end(&rig);
}

/* The handover text says how things were when the successor was started. */
Test(upgrade, commands_meanwhile_are_passed_on_until_it_is_decided)
{
    char message[HANDOVER_MESSAGE_BYTES];
    struct rig rig;

    start(&rig);
    upgrade_pass_command(&rig.up, "workers", "2"); /* no successor yet */
    let_gather(&rig);
    upgrade_pass_command(&rig.up, "workers", "3");
    upgrade_pass_command(&rig.up, "reload", "");
    cr_assert_eq(handover_hear(rig.successor, message), 1);
    cr_expect_str_eq(message, "workers 3");
    cr_assert_eq(handover_hear(rig.successor, message), 1);
    cr_expect_str_eq(message, "reload");
    handover_say(rig.successor, "ready", "");
    upgrade_step(&rig.up, 1, false);
    upgrade_pass_command(&rig.up, "workers", "4");
    cr_assert_eq(handover_hear(rig.successor, message), 1);
    cr_expect_str_eq(message, "go");
    cr_expect_eq(handover_hear(rig.successor, message), 0, "%s", message);
    end(&rig);
}

/* The operator may signal the pid in the lock file before the "ready" has reached us. */
Test(upgrade, a_successor_that_must_end_before_go_ends_us_too)
{
    struct rig rig;

    start(&rig);
    let_gather(&rig);
    handover_say(rig.successor, "ready", "");
    handover_say(rig.successor, "stop", "");
    upgrade_step(&rig.up, 1, false);
    cr_expect_eq(rig.succeeded, 1);
    cr_expect_eq(rig.ordered, ORDER_STOP);
    end(&rig);
}

Test(upgrade, an_order_to_end_outlives_the_successor_that_was_given_it)
{
    struct rig rig;

    start(&rig);
    let_gather(&rig);
    handover_say(rig.successor, "ready", "");
    handover_say(rig.successor, "finish", "");
    upgrade_reaped(&rig.up, PID, KILLED);
    cr_expect_eq(rig.failed, 1);
    cr_expect_eq(rig.ordered, ORDER_FINISH);
    end(&rig);
}

/* As tmp cleaners do: the remedy is a new master, so it must not be refused for that. */
Test(upgrade, a_file_that_was_removed_is_no_reason_to_refuse)
{
    char path[256];
    struct rig rig;

    start(&rig);
    path_of(&rig, path, "scoreboard");
    cr_assert_eq(unlink(path), 0);
    let_gather(&rig);
    write_file(&rig, "scoreboard", "of one that dies");
    upgrade_reaped(&rig.up, PID, KILLED);
    cr_expect_eq(rig.failed, 1);
    assert_file(&rig, "scoreboard", NULL);
    assert_file(&rig, "control.sock", "live");
    end(&rig);
}

Test(upgrade, one_that_waits_for_its_turn_gets_an_answer_when_we_end)
{
    struct rig rig;

    start(&rig);
    cr_expect_eq(upgrade_want(&rig.up), 1);
    upgrade_abandon(&rig.up);
    cr_expect_eq(rig.failed, 1);
    cr_expect_str_eq(rig.said, "drover is stopping");
    end(&rig);
}
