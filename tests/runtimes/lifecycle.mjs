// Sleep, death, resume, limits and orders, with the real program: the second half of what drive.mjs checks.
// Each check has a peer of its own, whose conversation is small, so that a request to the model tells
// which earlier turns it holds.

import { execFileSync, spawnSync } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'

export async function lifecycle(t) {
  const { runtime, root, run, ok, sendTo, until, pause, requests, presence, atModel, turnsAtModel, check, stateOf, session, running, keysTo, screen } = t
  const identity = (name) => `${runtime}-${name}`
  const profile = (name) => path.join(root, 'peers', name, '.iapeer/peer.yaml')

  // A peer in a folder of its own; `more` are lines of its profile.
  function create(name, more = '', ...flags) {
    ok(run('create', name, '--runtime', runtime, ...flags))
    fs.appendFileSync(profile(name), more)
    return name
  }

  const submitted = (name, text, ...more) => sendTo(name, text, '--wait', 'submitted', '--timeout', '60', ...more)
  const idle = (name) => until(`the turn of ${name} ends`, () => presence(name).turn === 'idle', name)
  const asleep = (name) => until(`${name} sleeps`, () => presence(name).state === 'asleep', name)
  const lines = (log, ...words) => fs.readFileSync(path.join(root, 'logs', log), 'utf8').split('\n').filter((l) => words.every((w) => l.includes(w)))
  const told = (name, ...words) => lines('lifecycle.log', `identity=${identity(name)} `, ...words)
  const wakes = (name) => told(name, 'ev=wake ').map((l) => l.match(/mode=(\S+) cause=(\S+)/).slice(1).join(' '))
  const message = (id) => JSON.parse(ok(run('explain', id, '--json')).out).message
  const stamp = (line) => line.match(/^ts=(\S+)/)[1]

  function expect(what, got, want) {
    const [g, w] = [JSON.stringify(got), JSON.stringify(want)]
    if (g !== w) throw new Error(`${what}: ${g} instead of ${w}`)
  }

  // Which of the words the model knew of when this message came: they are in the request that brought it.
  async function remembered(id, ...words) {
    const brings = (r) => r.main !== false && (r.new_user ?? []).some((u) => u.includes(`<iap id="${id}"`))
    const { line } = await until(`message ${id} is at the model`, () => requests().find(brings))
    return words.filter((w) => line.includes(w))
  }

  // The processes that carry the mark of a session of this peer.
  function marked(name) {
    return fs.readdirSync('/proc').filter((pid) => /^\d+$/.test(pid)).filter((pid) => {
      try {
        return running(pid) && fs.readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0').some((e) => e.startsWith(`IAPEER_SESSION=${identity(name)}@`))
      } catch {
        return false
      }
    }).map((pid) => `${pid} ${fs.existsSync(`/proc/${pid}/cmdline`) ? fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').slice(0, 60) : ''}`)
  }

  const agent = (name) => JSON.parse(fs.readFileSync(path.join(stateOf(name), 'exits', `${session(name).incarnation}.start.json`), 'utf8')).agent.pid

  async function kill(name) {
    const { incarnation } = session(name)
    process.kill(agent(name), 'SIGKILL')
    await until(`the death of ${name} is told`, () => told(name, 'ev=death ', `inc=${incarnation} `).length > 0, name)
    return told(name, 'ev=death ', `inc=${incarnation} `)[0].match(/cause=(\S+)/)[1]
  }

  function end(name) {
    ok(run('stop', name))
    const left = marked(name)
    if (left.length) throw new Error(`left behind: ${left.join(', ')}`)
  }

  await check('an idle session sleeps after its turn; its topic resumes it, none begins afresh', async () => {
    const name = create('nell', 'idle_secs: 2\n')
    const first = submitted(name, 'MOCK:slow 4\nthe apple turn', '--topic', 'fruit')
    await asleep(name)
    const reaped = told(name, 'action=reaped-idle')
    expect('sleeps', reaped.length, 1)
    const ended = lines('delivery.log', `msg=${first.id} `, 'state=answered')
    if (ended.length !== 1 || stamp(ended[0]) > stamp(reaped[0])) throw new Error(`not after its turn: ${ended} ${reaped}`)
    const second = submitted(name, 'the pear turn', '--topic', 'fruit')
    expect('on its topic it knows', await remembered(second.id, 'the apple turn'), ['the apple turn'])
    await asleep(name)
    const third = submitted(name, 'the plum turn')
    expect('without a topic it knows', await remembered(third.id, 'the apple turn', 'the pear turn'), [])
    expect('wakes', wakes(name), ['fresh first-wake', 'resume idle-reaped-resume', 'fresh idle-reaped-no-topic'])
    expect('deaths', told(name, 'ev=death'), [])
    end(name)
  })

  await check('kill -9 of the agent: fresh; with resume: always, the same conversation', async () => {
    const name = create('otto')
    submitted(name, 'the apple turn')
    await idle(name)
    expect('cause', await kill(name), 'signal-9')
    expect('left behind', marked(name), [])
    const second = submitted(name, 'the pear turn')
    expect('fresh it knows', await remembered(second.id, 'the apple turn'), [])
    await idle(name)
    // In the middle of a turn.
    submitted(name, 'MOCK:slow 30\nthe plum turn')
    await until('the answer streams', () => /(?<!MOCK:)slow \d/.test(screen(name)), name)
    expect('cause', await kill(name), 'signal-9')
    fs.appendFileSync(profile(name), 'resume: always\n')
    const third = submitted(name, 'the fig turn')
    // Whether the turn that was cut is known is up to the program: its transcript may be written behind it.
    expect('resumed it knows', await remembered(third.id, 'the apple turn', 'the pear turn'), ['the pear turn'])
    expect('wakes', wakes(name), ['fresh first-wake', 'fresh crash-or-self-close', 'resume crash-resume'])
    await idle(name)
    end(name)
  })

  await check('Ctrl-Z of an attached person freezes nobody', async () => {
    const name = create('vera')
    submitted(name, 'hello')
    await idle(name)
    // A terminal of that person, in which it is attached to.
    const outer = (...words) => execFileSync('tmux', ['-S', path.join(t.work, 'person.sock'), ...words], { env: t.env, encoding: 'utf8' })
    outer('-f', '/dev/null', 'new-session', '-d', '-x', '200', '-y', '50', t.iapeer, 'attach', name)
    try {
      await until('the person sees it', () => /[❯›]/.test(outer('capture-pane', '-p')), name)
      outer('send-keys', 'C-z')
      // What is typed after it shows only in a program that goes on; while it is stopped, it may get lost.
      let typed = 0
      await until('it goes on', () => {
        if (typed++ % 20 === 0) outer('send-keys', 'z')
        return /^[❯›][\u00a0 ]z/m.test(screen(name))
      }, name)
      outer('send-keys', 'C-u')
      await until('its composer is empty', () => !/^[❯›][\u00a0 ]z/m.test(screen(name)), name)
      const mail = sendTo(name, 'after Ctrl-Z')
      await until('it is at the model', () => atModel(mail.id) !== null, name)
    } finally {
      outer('kill-server')
    }
    await idle(name)
    expect('incarnation', session(name).incarnation, 1)
    end(name)
  })

  await check('children of a tool that go their own way end with the session', async () => {
    const name = create('tess')
    // Two of them leave their session, their parent and their group.
    const command = 'setsid sleep 4712 >/dev/null 2>&1 & (setsid setsid sleep 4713 >/dev/null 2>&1 &); echo gone'
    const tool = { claude: `MOCK:bash ${command}`, codex: `MOCK:tool exec_command ${JSON.stringify({ cmd: command, sandbox_permissions: 'require_escalated', justification: 'x' })}` }[runtime]
    submitted(name, tool)
    const children = () => marked(name).filter((p) => /sleep 471[23]/.test(p)).length
    await until('the children run', () => {
      if (/1\. Yes/.test(screen(name))) keysTo(name, 'Enter')
      return children() === 2
    }, name)
    await idle(name)
    expect('children that outlive their tool', children(), 2)
    end(name)
    const sleeping = spawnSync('ps', ['-eo', 'args'], { encoding: 'utf8' }).stdout.split('\n').filter((l) => /^sleep 471[23]/.test(l))
    expect('without a mark', sleeping, [])
  })

  for (const [status, hold] of [[401, 'login'], [429, 'limit']]) {
    await check(`after a ${status} what waits is held for the ${hold} and goes after start`, async () => {
      // Else it tries ten times, with growing pauses.
      const name = create(hold === 'login' ? 'lena' : 'lilly', 'env: {CLAUDE_CODE_MAX_RETRIES: "1"}\n')
      const failed = submitted(name, `MOCK:status ${status}`)
      const held = sendTo(name, 'the next one')
      await until(`it is held for the ${hold}`, () => presence(name).reason === hold, name)
      expect('at the model', atModel(held.id), null)
      expect('its state', message(held.id).state, 'held')
      expect('the operator is told', run('inbox', '--json').out.includes(identity(name)), true)
      // What the program says of its failure is no answer.
      expect('the failed one', [message(failed.id).state, message(failed.id).answer ?? null], ['submitted', null])
      ok(run('start', name))
      await until('it goes', () => atModel(held.id) !== null, name)
      await idle(name)
      // The old row is still in sight, above.
      const last = submitted(name, 'one more')
      await until('it is at the model', () => atModel(last.id) !== null, name)
      await idle(name)
      expect('turns', turnsAtModel(last.id), 1)
      expect('reason', presence(name).reason ?? null, null)
      end(name)
    })
  }

  await check('a usage limit is held until its printed end', async () => {
    // Claude Code prints it to subscribers, and asks them when it is more than a day away.
    const subscriber = runtime === 'claude' ? 'env: {ANTHROPIC_API_KEY: "", ANTHROPIC_AUTH_TOKEN: "", CLAUDE_CODE_OAUTH_TOKEN: "sk-ant-oat01-dummy"}\n' : ''
    const name = create('lois', subscriber)
    const over = new Date(Date.now() + 200_000_000)
    const day = `${over.getFullYear()}-${String(over.getMonth() + 1).padStart(2, '0')}-${String(over.getDate()).padStart(2, '0')}`
    submitted(name, 'MOCK:limit 200000')
    const held = sendTo(name, 'the next one')
    await until('it is held for the limit', () => presence(name).reason === 'limit', name)
    expect('the operator is told', run('inbox', '--json').out.includes(`its usage limit is reached until ${day} `), true)
    expect('at the model', atModel(held.id), null)
    // What is typed in the moment in which its question opens would be lost in it.
    if (runtime === 'claude') await until('it asks', () => /What do you want to do\?/.test(screen(name)), name)
    ok(run('start', name))
    await until('it goes', () => atModel(held.id) !== null, name)
    await idle(name)
    expect('reason', presence(name).reason ?? null, null)
    end(name)
  })

  await check('an ephemeral worker takes one task after the other, each in a fresh process', async () => {
    const name = create('wim', '', '--wake-policy', 'ephemeral')
    const tasks = ['apple', 'pear'].map((fruit) => sendTo(name, `MOCK:tool send_to_peer {"name":"operator","text":"the ${fruit} is done"}\nthe ${fruit} task`))
    for (const task of tasks) await until('it is answered', () => message(task.id).state === 'answered', name)
    await until('both are reaped', () => told(name, 'action=reaped-ephemeral ').length === 2, name)
    expect('wakes', wakes(name), ['fresh ephemeral-policy', 'fresh ephemeral-policy'])
    expect('armed', told(name, 'ev=ephemeral-armed ').map((l) => l.match(/inc=\d+ by=\S+/)[0]), ['inc=1 by=reply', 'inc=2 by=reply'])
    expect('the second worker knows', await remembered(tasks[1].id, 'the apple task'), [])
    expect('turns', tasks.map((task) => turnsAtModel(task.id)), [1, 1])
    expect('answered by', tasks.map((task) => message(task.id).answer?.by), ['message', 'message'])
    expect('deaths', told(name, 'ev=death'), [])
    await asleep(name)
    expect('left behind', marked(name), [])
  })

  await check('interrupt ends a running turn, the session goes on', async () => {
    const name = create('ines')
    const cut = submitted(name, 'MOCK:slow 60\nthe apple turn')
    await until('the answer streams', () => /(?<!MOCK:)slow \d/.test(screen(name)), name)
    ok(run('interrupt', name))
    expect('turn', presence(name).turn, 'idle')
    expect('told', told(name, 'ev=interrupt').length, 1)
    const next = submitted(name, 'the pear turn')
    expect('it knows', await remembered(next.id, 'the apple turn'), ['the apple turn'])
    expect('turns', turnsAtModel(cut.id), 1)
    await idle(name)
    expect('incarnation', session(name).incarnation, 1)
    end(name)
  })

  await check('compact is typed, and accepted by the program', async () => {
    const name = create('cora')
    submitted(name, 'the apple turn')
    await idle(name)
    const before = requests().length
    ok(run('compact', name))
    await until('the program shortens its conversation', () => requests().slice(before).some((r) => r.compaction), name)
    const next = submitted(name, 'the pear turn')
    expect('it knows', await remembered(next.id, 'mock summary'), ['mock summary'])
    await idle(name)
    expect('incarnation', session(name).incarnation, 1)
    end(name)
  })

  await check('self_fresh: the session ends after its turn, a fresh one comes', async () => {
    const name = create('fred')
    const asked = submitted(name, 'MOCK:tool self_fresh {}\nthe apple turn')
    await until('the next one is ready', () => fs.existsSync(path.join(stateOf(name), 'session.json')) && session(name).incarnation === 2 && session(name).ready, name)
    const ended = lines('delivery.log', `msg=${asked.id} `, 'state=answered')
    const relaunch = told(name, 'action=needs-eager-fresh')
    if (ended.length !== 1 || relaunch.length !== 1 || stamp(ended[0]) > stamp(relaunch[0])) throw new Error(`not after its turn: ${ended} ${relaunch}`)
    expect('wakes', wakes(name), ['fresh first-wake', 'fresh self-fresh'])
    const next = submitted(name, 'the pear turn')
    expect('it knows', await remembered(next.id, 'the apple turn'), [])
    expect('deaths', told(name, 'ev=death'), [])
    await idle(name)
    end(name)
  })
}
