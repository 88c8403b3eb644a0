/*
 * retry.h - decides the next step after an attempt of a request.  Pure.
 *
 * An attempt that fails before its client has seen content is repeated on another node, as long
 * as attempts are left and the retry budget allows it.  After that, an answer that is plain
 * text is continued by another node.  Everything else ends in an error.  A node that is full
 * has not failed, and costs no attempt; nor has one that lacks what the request needs, or that
 * is away: that one may be asked again some seconds later.  An
 * engine that shows nothing for minutes may be at work all the same: the next one would begin
 * the same work anew.
 *
 * A 4xx whose reason is not known, an answer without output and a 200 that is no answer are a
 * node's own, or the request's: another node shows it.  The nodes that give others an answer
 * meanwhile are believed, so a request that is wrong goes to two of them and to no third.
 *
 * A request may itself be the cause: of an engine's error, or of its death.  So a request that
 * an engine blamed is tried on one more, and no third engine gets a request with which two died
 * while their drover-node lived.  A node or a host that is lost is not evidence of that kind.
 */
#ifndef DROVER_POLICY_FAULT_RETRY_H
#define DROVER_POLICY_FAULT_RETRY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"

enum retry_end {
    RETRY_END_ANSWERED = 0, /* the answer is whole */
    RETRY_END_REFUSED,      /* the request itself is wrong: no other node will accept it */
    RETRY_END_FULL,   /* no room there at present, or no descriptor here to reach it with; an
                       * attempt that had the head of an answer had room, and has failed */
    RETRY_END_LACKS,  /* it lacks what the request needs, and another node may have it */
    RETRY_END_AWAY,   /* the node or its engine cannot be reached: it never had the request */
    RETRY_END_UNSURE, /* its engine refuses the request for no reason that is known */
    RETRY_END_EMPTY,  /* its answer has no output, and nothing explains that */
    RETRY_END_NO_ANSWER, /* its engine's 200 is no answer */
    RETRY_END_BLAMED,    /* its engine blames the request, with a status that is a server's */
    RETRY_END_FAILED,    /* the node failed */
    RETRY_END_SILENT,    /* its time was up, and no sign shows whether the engine works */
    RETRY_END_NO_NODE_LEFT, /* no attempt: every node that could take the request has failed */
};

#define RETRY_MAX_REFUSALS 8u
#define RETRY_MAX_EMPTY    4u /* each may be a run of the model */
#define RETRY_MAX_TRUSTED  2u
#define RETRY_MAX_BLAMED   2u
#define RETRY_MAX_DEATHS   2u
#define RETRY_MAX_AWAY     8u
#define RETRY_AWAY_STEP_US UINT64_C(250000)

struct retry_facts {
    enum retry_end end;
    bool client_gone;
    bool other_runs;    /* a second attempt of the request still runs */
    bool content_shown; /* the client has content, of any attempt */
    bool resumable;     /* ... and all of it is plain text, which is known */
    bool wait_left;     /* it may still wait for a node to come back */
    bool all_away;      /* no node has failed or refused; some were AWAY */
    bool budget_allows; /* the retry budget of its model */
    uint32_t attempts;  /* counted so far, the one that ended included */
    uint32_t max_attempts;
    uint32_t resumes; /* so far */
    uint32_t max_resumes;
    uint32_t refusals;     /* ends of LACKS so far, and nodes that were AWAY, with this one */
    uint32_t unsure;       /* likewise of UNSURE, EMPTY and NO_ANSWER */
    uint32_t trusted;      /* ... at nodes that have just given others an answer */
    uint32_t blamed;       /* likewise of BLAMED */
    uint32_t engines_died; /* with the request, while their drover-node lived */
};

enum retry_verdict {
    RETRY_DONE = 0,  /* nothing is left to do for the client */
    RETRY_FAIL,      /* the client gets an error */
    RETRY_AGAIN,     /* another attempt from the start */
    RETRY_RESUME,    /* another attempt, from the text that the client has */
    RETRY_ELSEWHERE, /* another attempt that is not counted, on another node */
    RETRY_PAUSE, /* another attempt that is not counted; the node is left alone for a while */
    RETRY_OTHER_GOES_ON,
    RETRY_WAIT_NODE, /* wait for a node to come back */
};

/*
 *   when                                                       then
 *   --------------------------------------------------------   -------------
 *   the client is gone, or the answer is whole                 DONE
 *   refused                                                    FAIL
 *   another attempt runs                                       OTHER_GOES_ON
 *   no node is left, waiting is allowed, and content was
 *   shown, or those that were asked were away                  WAIT_NODE
 *   no node is left                                            FAIL
 *   two engines died                                           FAIL
 *   lacks, or away; fewer than eight nodes so far              ELSEWHERE
 *   lacks, or away                                             FAIL
 *   unsure, or empty, at two nodes that do well otherwise      FAIL
 *   unsure; fewer than eight nodes so far                      ELSEWHERE
 *   empty, or no answer; fewer than four nodes so far          ELSEWHERE
 *   unsure, empty, or no answer                                FAIL
 *   blamed by two engines                                      FAIL
 *   full                                                       PAUSE
 *   silent, nothing shown: it would cost as much elsewhere     FAIL
 *   nothing shown; attempts are left and the budget allows it  AGAIN
 *   content shown; it can be resumed and resumes are left      RESUME
 *   anything else                                              FAIL
 */
MUST_CHECK enum retry_verdict retry_decide(const struct retry_facts *facts);

/* Until when a request leaves a node alone that was away, the `away`th time that it met one
 * (from 1): for 1 s, and twice as long each time up to 8 s; from the eighth on for good, which
 * is UINT64_MAX.  Health finds most of them down meanwhile.  Rounded up to RETRY_AWAY_STEP_US,
 * so that requests that met one at about the same time are alike in the queue. */
uint64_t retry_away_until(uint32_t away, uint64_t now_mono_us);

#endif
