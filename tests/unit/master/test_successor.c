/* test_successor.c - what a new master makes of the one before it, with a channel, no process.
 */
#include <criterion/criterion.h>

#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "master/supervise.h"
#include "master/upgrade/successor.h"

struct rig {
    struct supervisor sup; /* whose health process never comes */
    struct successor succ;
    int predecessor; /* the other end of the channel */
};

static void start(struct rig *rig, enum successor_phase phase)
{
    int pair[2];

    cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair), 0);
    *rig = (struct rig){.predecessor = pair[0]};
    rig->succ =
        (struct successor){.phase = phase, .channel = pair[1], .sup = &rig->sup, .workers = 2};
}

static void end(struct rig *rig)
{
    successor_finish(&rig->succ);
    (void)close(rig->predecessor);
}

static void step(struct rig *rig)
{
    struct error err;

    cr_assert_eq(successor_step(&rig->succ, 1, &err), 0);
}

/* The next message to the predecessor; "" = nothing, "end" = nothing any more. */
static const char *heard(const struct rig *rig)
{
    static char message[HANDOVER_MESSAGE_BYTES];
    int rc = handover_hear(rig->predecessor, message);

    return rc == 1 ? message : rc == 0 ? "" : "end";
}

Test(successor, takes_the_commands_that_came_after_it_was_started)
{
    struct rig rig;

    start(&rig, SUCCESSOR_STARTING);
    handover_say(rig.predecessor, "workers", "4");
    handover_say(rig.predecessor, "workers", "5");
    handover_say(rig.predecessor, "workers", "65"); /* more than there can be */
    handover_say(rig.predecessor, "sing", "");      /* of a later version */
    handover_say(rig.predecessor, "reopen", "");
    cr_expect(successor_holds(&rig.succ));
    step(&rig);
    cr_expect_eq(rig.succ.workers, 5);
    cr_expect(rig.succ.reopen);
    cr_expect_not(rig.succ.reload);
    handover_say(rig.predecessor, "reload", "");
    step(&rig);
    cr_expect(rig.succ.reload);
    end(&rig);
}

Test(successor, that_must_end_before_it_is_ready_leaves_the_service_to_the_other)
{
    struct rig rig;

    start(&rig, SUCCESSOR_STARTING);
    successor_pass_order(&rig.succ, ORDER_STOP);
    cr_expect_str_eq(heard(&rig), "failed it was ordered to end");
    cr_expect_str_eq(heard(&rig), "end");
    cr_expect(successor_alone(&rig.succ));
    end(&rig);
}

/* Its files are in place and its pid is in the lock file: it is the service. */
Test(successor, that_must_end_when_it_is_ready_passes_it_on_before_go_and_after)
{
    struct rig rig;

    start(&rig, SUCCESSOR_WAITING);
    successor_fail(&rig.succ, "not any more");
    successor_pass_order(&rig.succ, ORDER_FINISH);
    cr_expect_str_eq(heard(&rig), "finish");
    cr_expect_not(successor_alone(&rig.succ), "it does not wait for the other's streams");
    handover_say(rig.predecessor, "go", "");
    step(&rig);
    cr_expect_eq(rig.succ.phase, SUCCESSOR_SERVING);
    successor_pass_order(&rig.succ, ORDER_STOP);
    cr_expect_str_eq(heard(&rig), "stop");
    successor_pass_order(&rig.succ, ORDER_DIE);
    cr_expect_str_eq(heard(&rig), "die");
    end(&rig);
}
