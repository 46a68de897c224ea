// Messages that meet a dialog of the real program, at random moments around its appearance: none is answered by
// them, and each arrives once when a person has.

import fs from 'node:fs'
import path from 'node:path'

export async function dialogs(t) {
  const { runtime, root, project, tries, run, ok, sendTo, until, pause, requests, presence, atModel, turnsAtModel, check, keysTo, screen } = t
  const sendText = (text, ...more) => sendTo('boris', text, ...more)

  // Two questions of the program to a person; `given`: whether anybody has said yes.
  const given = () => fs.existsSync(path.join(project, 'permission-was-given'))
  const permission = {
    open: () => /1\. Yes/.test(screen()),
    given,
    ask: {
      claude: 'MOCK:bash touch permission-was-given; id',
      codex: 'MOCK:tool exec_command {"cmd":"touch permission-was-given","sandbox_permissions":"require_escalated","justification":"x"}',
    }[runtime],
  }
  // The program tells the model what was chosen, or that nothing was.
  const question = {
    open: () => /^Enter to select · /m.test(screen()),
    given: () => requests().some((r) => r.line !== null && /Which colou?r\?\\*"=/.test(r.line)),
    ask: { claude: 'MOCK:tool AskUserQuestion {"questions":[{"question":"Which color?","header":"Color","options":[{"label":"Red","description":"r"},{"label":"Blue","description":"b"}],"multiSelect":false}]}' }[runtime],
  }

  async function stands({ ask, open, given }) {
    sendText(ask, '--wait', 'submitted', '--timeout', '60')
    await until('the dialog is open', open)
    const held = sendText('an innocent message')
    await until('it is held', () => presence().reason === 'approval')
    if (!open()) throw new Error('the dialog is gone')
    if (given()) throw new Error('it was answered')
    keysTo('boris', 'Escape')
    await until('it is at the model', () => atModel(held.id) !== null)
    if (given()) throw new Error('it was answered')
    await until('the turn ends', () => presence().turn === 'idle')
  }

  async function atRandomMoments({ ask, open, given }) {
    let met = 0
    for (let n = 0; n < tries; n++) {
      const asked = sendText(ask)
      // The random moment is the point of this check, not a wait for something.
      await pause(Math.random() * 900)
      const innocent = sendText(`innocent ${n}`, '--urgent')
      await until('the dialog is open, or the turn was interrupted before', () => open() || atModel(innocent.id) !== null)
      if (open()) {
        met++
        await until('the message waits for a person', () => ['approval', 'busy'].includes(presence().reason))
        await pause(300)
        if (!open()) throw new Error(`try ${n}: the dialog is gone`)
        keysTo('boris', 'Escape')
      }
      await until('the innocent message is at the model', () => atModel(innocent.id) !== null)
      if (turnsAtModel(innocent.id) !== 1) throw new Error(`try ${n}: ${turnsAtModel(innocent.id)} turns`)
      await until('the turn ends', () => {
        // Urgent mail goes first: the question may have come only now.
        if (open()) keysTo('boris', 'Escape')
        return presence().turn === 'idle' && presence().queue.waiting === 0
      })
      if (given()) throw new Error(`try ${n}: it was answered`)
      // Interrupted at once, it may never have been asked; it is never asked twice.
      if (turnsAtModel(asked.id) > 1) throw new Error(`try ${n}: the question made ${turnsAtModel(asked.id)} turns`)
    }
    return `met open ${met} times`
  }

  await check('a permission dialog is not answered', () => stands(permission))
  await check(`a permission dialog at random moments, ${tries} times`, () => atRandomMoments(permission))
  if (question.ask) {
    await check('a question is not answered', () => stands(question))
    await check(`a question at random moments, ${tries} times`, () => atRandomMoments(question))
  }

  // The same program, whose trust in the folder is left to a person.
  function asking() {
    const builtIn = fs.readFileSync(new URL(`../../peers/runtimes/${runtime}.yaml`, import.meta.url), 'utf8')
    const changes = [[/^id: .*$/m, 'id: asking'], ...{
      claude: [[/^ {2}trust:\n {4}policy: accept\n {4}frames:\n( {6}.*\n)+/m, '  trust: {policy: ask}\n']],
      codex: [[/^ {4}- -c\n {4}- toml: projects\n.*\n/m, '']],
    }[runtime]]
    for (const [found] of changes) if (!found.test(builtIn)) throw new Error(`the definition decides about trust in another way: ${found}`)
    const definition = changes.reduce((text, [found, put]) => text.replace(found, put), builtIn)
    fs.mkdirSync(path.join(root, 'runtimes'), { recursive: true, mode: 0o700 })
    fs.writeFileSync(path.join(root, 'runtimes/asking.yaml'), definition, { mode: 0o600 })
  }

  const trustTries = Math.max(2, Math.round(tries / 10))
  await check(`a trust dialog at random moments, ${trustTries} times`, async () => {
    asking()
    const open = (name) => /Quick safety check|Trust this folder\?/.test(run('screen', name).out)
    const deaths = () => fs.readFileSync(path.join(root, 'logs/lifecycle.log'), 'utf8').split('\n').filter((l) => l.includes('identity=asking-') && l.includes('ev=death ')).length
    for (let n = 0; n < trustTries; n++) {
      const name = `doubter${n}`
      ok(run('create', name, '--runtime', 'asking'))
      // Without settings of the folder's own, Codex does not ask.
      fs.mkdirSync(path.join(root, 'peers', name, '.codex'))
      ok(run('start', name))
      await pause(Math.random() * 1500)
      const innocent = sendTo(name, `innocent ${n}`)
      await until('the trust dialog is open', () => open(name), name)
      await until('the message waits', () => ['dialog', 'approval'].includes(presence(name).reason), name)
      await pause(300)
      if (!open(name) || deaths() > 0 || atModel(innocent.id) !== null) throw new Error(`try ${n}: the dialog is gone`)
      // A person trusts the folder; the first program offers to leave it first.
      for (const key of runtime === 'claude' ? ['Up', 'Enter'] : ['Enter']) keysTo(name, key)
      await until('it is at the model', () => atModel(innocent.id) !== null, name)
      if (turnsAtModel(innocent.id) !== 1) throw new Error(`try ${n}: ${turnsAtModel(innocent.id)} turns`)
      await until('the turn ends', () => presence(name).turn === 'idle', name)
      ok(run('stop', name))
    }
  })
}
